// The attention kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "attention_decode.h"
#include "attention_parts.h"
#include "attention_prefill.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

template <typename T, typename S>
void attend_tile(const LayerCall& c, const Tile& t, int kv_head, float* memory) {
    const Scratch m(c.shape, memory);
    load_queries<T>(c, t, kv_head, m);
    if (t.num_tokens == 1 && c.shape.head_dim % kLanes == 0)
        attend_one<S>(c, t, kv_head, m);
    else
        attend_many<S>(c, t, kv_head, m);
    store_out<T>(c, t, kv_head, m);
}

void write(const LayerCall& c, const Tile& t) {
    if (c.rows_are_bf16)
        c.shape.pool_is_bf16 ? write_tile<uint16_t, uint16_t>(c, t) : write_tile<uint16_t, float>(c, t);
    else
        c.shape.pool_is_bf16 ? write_tile<float, uint16_t>(c, t) : write_tile<float, float>(c, t);
}

void attend(const LayerCall& c, const Tile& t, int kv_head, float* scratch) {
    if (c.rows_are_bf16)
        c.shape.pool_is_bf16 ? attend_tile<uint16_t, uint16_t>(c, t, kv_head, scratch)
                             : attend_tile<uint16_t, float>(c, t, kv_head, scratch);
    else
        c.shape.pool_is_bf16 ? attend_tile<float, uint16_t>(c, t, kv_head, scratch)
                             : attend_tile<float, float>(c, t, kv_head, scratch);
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {write, attend, Scratch::floats};

}  // namespace trtdisagg::TRTDISAGG_ISA
