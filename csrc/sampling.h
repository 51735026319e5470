// What sampling does over a whole row of logits; engine/sampling/torch_sampler.py defines what the results must be.
//
// A row is looked at in blocks, of which the maxima are known first: most blocks then need no second look.

#pragma once

#include <cstdint>

namespace trtdisagg {

constexpr int kSamplingBlock = 64;

inline int num_sampling_blocks(int vocab) { return (vocab + kSamplingBlock - 1) / kSamplingBlock; }

// Logits as they are compared: (x - top) * inverse_temperature, none above 0.
struct ScaledRow {
    const float* x;
    const float* maxima;  // of each block of x
    int vocab;
    float top;
    float inverse_temperature;
};

// Some tokens of a row, in order.
struct Gathered {
    float* values;  // scaled
    int32_t* ids;
};

struct SamplingKernels {
    // The maximum of each block; false when there are NaNs.
    bool (*block_maxima)(const float* x, int vocab, float* maxima);
    // The sum of e^x, rounded to multiples of 2^-34 each, over all at least as great as `least`: exact, whatever the
    // order. And how many of them have any mass.
    double (*mass)(const ScaledRow&, float least, int* count);
    // The sum of e^x.
    double (*weight)(const ScaledRow&);
    // e^x rounded likewise, of some scaled values.
    void (*masses)(const float* scaled, int count, float* out);
    // Those from `least` to what lies beyond; how many there are. Writes one behind the last.
    int (*gather)(const ScaledRow&, float least, float beyond, Gathered out);
    // The token with the greatest sum of value and Gumbel noise, of those at least as great as `least`.
    int (*contest)(const ScaledRow&, float least, uint64_t key);
};

}  // namespace trtdisagg
