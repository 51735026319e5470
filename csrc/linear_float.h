// Sums of products with float32 and bfloat16 weights. Kernel files only.

#pragma once

#include "linear_tile.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

// One input of R rows with P panels of weights.
template <int R, int P>
inline void add_input(const Vec (&weight)[P][kVecs], const float* x, int64_t stride, Sums<R, P>& sums) {
    for (int r = 0; r < R; ++r) {
        const Vec value = broadcast(x[r * stride]);
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) sums[r][p][v] = add_product(sums[r][p][v], value, weight[p][v]);
    }
}

template <int P, typename T>
inline void load_panels(const T* weight, int64_t apart, Vec (&w)[P][kVecs]) {
    for (int p = 0; p < P; ++p)
        for (int v = 0; v < kVecs; ++v) w[p][v] = load(weight + p * apart + v * kLanes);
}

struct Float {
    using Weight = float;
    static constexpr int kSums = kLanes == 16 ? 24 : 12;

    template <int R, int P>
    static void add(const LinearCall& c, const float* weight, const float*, int row, int begin, int end,
                    Sums<R, P>& sums) {
        const int64_t stride = c.num_inputs, apart = stride * kPanel;
        const float* x = c.x + row * stride;
        weight += int64_t(begin) * kPanel;
        Vec w[P][kVecs];
        for (int i = begin; i < end; ++i, weight += kPanel) {
            prefetch<P>(weight, apart);
            load_panels(weight, apart, w);
            add_input<R, P>(w, x + i, stride, sums);
        }
    }
};

struct BFloat16 {
    using Weight = uint16_t;
    static constexpr int kSums = Float::kSums;

    template <int R, int P>
    static void add(const LinearCall& c, const uint16_t* weight, const float*, int row, int begin, int end,
                    Sums<R, P>& sums) {
        const int64_t stride = c.num_inputs, apart = stride * kPanel;
        const float* x = c.x + row * stride;
        weight += int64_t(begin) * kPanel;
        Vec w[P][kVecs];
        int i = begin;
        for (; i + 2 <= end; i += 2, weight += 2 * kPanel) {
            prefetch<P>(weight, apart);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) w[p][v] = (Vec)(load_pairs(weight + p * apart, v) << 16);
            add_input<R, P>(w, x + i, stride, sums);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) w[p][v] = (Vec)(load_pairs(weight + p * apart, v) & 0xffff0000u);
            add_input<R, P>(w, x + i + 1, stride, sums);
        }
        if (i < end) {
            load_panels(weight, apart, w);
            add_input<R, P>(w, x + i, stride, sums);
        }
    }

    static VecU load_pairs(const uint16_t* weight, int vec) {
        VecU pairs;
        memcpy(&pairs, weight + 2 * vec * kLanes, sizeof pairs);
        return pairs;
    }
};

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
