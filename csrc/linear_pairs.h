// Sums of products with pairs of bfloat16, for many rows: both sides are rounded, x once before (linear.h), and one
// instruction adds two products where the CPU has it. Kernel files only.

#pragma once

#include "linear_float.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

// sum + the two products that lie in each 4 bytes: exact ones, the second added first, each sum rounded to float32.
// The instruction takes subnormal numbers for 0; what stands in for it does not.
inline Vec add_pair(Vec sum, VecU a, VecU b) {
#if defined(__AVX512BF16__)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum = add_product(sum, (Vec)(a & 0xffff0000u), (Vec)(b & 0xffff0000u));
    return add_product(sum, (Vec)(a << 16), (Vec)(b << 16));
#endif
}

inline int64_t even(int count) { return count + (count & 1); }

struct BFloat16Pairs {
    using Weight = uint16_t;
    static constexpr int kSums = Float::kSums;

    template <int R, int P>
    static void add(const LinearCall& c, const uint16_t* weight, const float*, int row, int begin, int end,
                    Sums<R, P>& sums) {
        const int64_t stride = even(c.num_inputs), apart = int64_t(c.num_inputs) * kPanel;
        const uint16_t* x = c.rounded + row * stride;
        weight += int64_t(begin) * kPanel;
        VecU w[P][kVecs];
        int i = begin;
        for (; i + 2 <= end; i += 2, weight += 2 * kPanel) {
            prefetch<P>(weight, apart);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) w[p][v] = BFloat16::load_pairs(weight + p * apart, v);
            add_inputs<R, P>(w, x + i, stride, sums);
        }
        if (i < end) {  // the last of an odd number, with a 0 beside it
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) w[p][v] = (VecU)load(weight + p * apart + v * kLanes) >> 16;
            add_inputs<R, P>(w, x + i, stride, sums);
        }
    }

    // Two inputs of R rows with P panels of weights.
    template <int R, int P>
    static void add_inputs(const VecU (&weight)[P][kVecs], const uint16_t* x, int64_t stride, Sums<R, P>& sums) {
        for (int r = 0; r < R; ++r) {
            uint32_t pair;
            memcpy(&pair, x + r * stride, sizeof pair);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) sums[r][p][v] = add_pair(sums[r][p][v], weight[p][v], pair - VecU{});
        }
    }
};

void round_rows(const LinearCall& c, int first_row, int end_row) {
    const int64_t stride = even(c.num_inputs);
    for (int64_t row = first_row; row < end_row; ++row) {
        const float* x = c.x + row * c.num_inputs;
        uint16_t* out = c.rounded + row * stride;
        out[stride - 1] = 0;
        int i = 0;
        for (; i + kLanes <= c.num_inputs; i += kLanes) store(out + i, load(x + i));
        for (; i < c.num_inputs; ++i) from_float(x[i], out + i);
    }
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
