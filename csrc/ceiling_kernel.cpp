// The machine's limits, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "ceilings.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kStreams = 4;  // loads in flight that do not wait for one another

uint32_t read(const char* bytes, size_t num_bytes) {
    VecU found[kStreams] = {};
    size_t i = 0;
    for (; i + sizeof found <= num_bytes; i += sizeof found)
        for (int s = 0; s < kStreams; ++s) {
            VecU v;
            memcpy(&v, bytes + i + s * sizeof v, sizeof v);
            found[s] ^= v;
        }
    uint32_t all = 0;
    for (; i < num_bytes; ++i) all ^= uint8_t(bytes[i]);
    for (int s = 0; s < kStreams; ++s)
        for (int lane = 0; lane < kLanes; ++lane) all ^= found[s][lane];
    return all;
}

constexpr int kChains = 12;  // more than the latency of one operation times those that begin in a cycle

double multiply_add(int64_t num_rounds, float* out) {
    Vec sums[kChains];
    for (int c = 0; c < kChains; ++c) sums[c] = broadcast(float(c));
    const Vec factor = broadcast(0.5f), addend = broadcast(*out + 1.0f);  // not known before it runs
    for (int64_t round = 0; round < num_rounds; ++round)
        for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + addend;
    for (int c = 0; c < kChains; ++c) *out += sum(sums[c]);
    return 2.0 * kLanes * kChains * double(num_rounds);
}

}  // namespace

extern const CeilingKernels ceiling_kernels;
const CeilingKernels ceiling_kernels = {read, multiply_add};

}  // namespace trtdisagg::TRTDISAGG_ISA
