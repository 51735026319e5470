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

// Values at least as great as `least`, in order of their tokens.
struct Gathered {
    float* values;  // scaled
    int32_t* ids;
};

struct SamplingKernels {
    // The maximum of each block; false when there are NaNs.
    bool (*block_maxima)(const float* x, int vocab, float* maxima);
    // The sum of e^x, rounded to multiples of 2^-34 each: exact, whatever the order.
    double (*mass)(const ScaledRow&);
    // The sum of e^x.
    double (*weight)(const ScaledRow&);
    // e^x rounded likewise, of some scaled values.
    void (*masses)(const float* scaled, int count, double* out);
    // How many there are.
    int (*gather)(const ScaledRow&, float least, Gathered out);
    // The token with the greatest sum of value and Gumbel noise, of those at least as great as `least`.
    int (*contest)(const ScaledRow&, float least, uint64_t key);
};

}  // namespace trtdisagg
