// The attention kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "attention_decode.h"
#include "attention_prefill.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

void write(const LayerCall& c, const Tile& t, float* scratch) {
    for (int i = 0; i < t.num_tokens; ++i)
        for (int h = 0; h < c.shape.num_kv_heads; ++h)
            c.shape.pool_is_bf16 ? write_token<uint16_t>(c, t, i, h, scratch) : write_token<float>(c, t, i, h, scratch);
}

void attend_many(const LayerCall& c, const Tile& t, int kv_head, float* scratch) {
    (c.shape.pool_is_bf16 ? attend_tile<uint16_t> : attend_tile<float>)(c, t, kv_head, scratch);
}

void attend_one(const LayerCall& c, const Tile& t, int kv_head, float* scratch) {
    (c.shape.pool_is_bf16 ? attend_whole<uint16_t> : attend_whole<float>)(c, t, kv_head, scratch);
}

void attend_split(const LayerCall& c, const Tile& t, int kv_head, int split, float* scratch, float* partial) {
    (c.shape.pool_is_bf16 ? attend_part<uint16_t> : attend_part<float>)(c, t, kv_head, split, scratch, partial);
}

void merge_splits(const LayerCall& c, const Tile& t, int kv_head, float* scratch, const float* partials) {
    (c.shape.pool_is_bf16 ? merge_parts<uint16_t> : merge_parts<float>)(c, t, kv_head, scratch, partials);
}

bool has_attend_one(const AttentionShape& s) { return s.head_dim % kStep == 0; }

int64_t scratch_floats(const AttentionShape& s) {
    const int64_t many = TileScratch::floats(s), one = DecodeScratch::floats(s);
    return (many > one ? many : one) + kLanes;
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {write,        attend_many,    attend_one,     attend_split,
                                            merge_splits, has_attend_one, scratch_floats, Partial::floats};

}  // namespace trtdisagg::TRTDISAGG_ISA
