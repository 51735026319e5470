// What a request wants changed in its logits before a token is chosen. Ids outside the vocabulary name no token.

#pragma once

#include <algorithm>
#include <limits>

#include "sampler.h"

namespace trtdisagg {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

inline void apply_mask(const float* x, int vocab, const SampleRow& row, float* out) {
    for (int begin = 0, word = 0; begin < vocab; begin += 32, ++word) {
        const int end = std::min(begin + 32, vocab);
        const uint32_t bits = word < row.num_mask_words ? uint32_t(row.mask[word]) : 0;
        if (bits == 0) std::fill(out + begin, out + end, kNothing);
        else if (bits == 0xffffffffu) std::copy(x + begin, x + end, out + begin);
        else
            for (int i = begin; i < end; ++i) out[i] = (bits >> (i - begin)) & 1 ? x[i] : kNothing;
    }
}

inline void penalize(float& x, int count, const SampleRow& row) {
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    x -= float((count > 0 ? row.presence_penalty : 0) + row.frequency_penalty * count);
}

// out: the logits that a token is chosen by.
inline void edit(const float* x, int vocab, const SampleRow& row, float* out) {
    if (row.mask) apply_mask(x, vocab, row, out);
    else std::copy(x, x + vocab, out);
    const auto known = [&](int32_t id) { return id >= 0 && id < vocab; };
    for (int i = 0; i < row.num_banned; ++i)
        if (known(row.banned_ids[i])) out[row.banned_ids[i]] = kNothing;
    for (int i = 0; i < row.num_biases; ++i)
        if (known(row.bias_ids[i])) out[row.bias_ids[i]] += row.biases[i];
    for (int i = 0; i < row.num_seen; ++i)
        if (known(row.seen_ids[i])) penalize(out[row.seen_ids[i]], row.seen_counts[i], row);
}

}  // namespace trtdisagg
