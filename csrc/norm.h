// Normalization of one row. Kernel files only.

#pragma once

#include "rowwise.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

inline float sum_of(const float* x, int width) {
    Vec total{};
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) total += load(x + i);
    float rest = sum(total);
    for (; i < width; ++i) rest += x[i];
    return rest;
}

inline float sum_of_squares(const float* x, int width, float mean) {
    Vec total{};
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) total += (load(x + i) - mean) * (load(x + i) - mean);
    float rest = sum(total);
    for (; i < width; ++i) rest += (x[i] - mean) * (x[i] - mean);
    return rest;
}

// out may be x.
inline void normalize(const Norm& n, const float* x, int width, float* out) {
    const float mean = n.bias ? sum_of(x, width) / width : 0.0f;
    const float scale = 1.0f / __builtin_sqrtf(sum_of_squares(x, width, mean) / width + n.eps);
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        const Vec y = (load(x + i) - mean) * scale * load(n.weight + i);
        store(out + i, n.bias ? y + load(n.bias + i) : y);
    }
    for (; i < width; ++i) {
        const float y = (x[i] - mean) * scale * n.weight[i];
        out[i] = n.bias ? y + n.bias[i] : y;
    }
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
