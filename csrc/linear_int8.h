// Sums of products with int8 weights: x is rounded to 16 bits, which loses nothing that matters beside the weights' 8,
// and pairs of products are added as integers, twice as many at once as floats. Kernel files only.

#pragma once

#include "linear_tile.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

typedef int16_t VecS __attribute__((vector_size(kLanes * 4)));

// sums + the two products that lie in each 4 bytes.
inline VecI add_pairs(VecI sums, VecS a, VecS b) {
#if defined(__AVX512VNNI__)
    return (VecI)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sums + (VecI)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sums + (VecI)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return sums + (VecI)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    const VecI x = (VecI)a, y = (VecI)b;
    return sums + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

struct Int8 {
    using Weight = int8_t;
    static constexpr int kSums = kLanes == 16 ? 24 : 8;

    template <int R, int P>
    static void add(const LinearCall& c, const int8_t* weight, const float* scales, int row, int begin, int end,
                    Sums<R, P>& sums) {
        const int num_groups = c.num_inputs / c.group;
        const int16_t* x = c.q.values + int64_t(row) * c.num_inputs;
        const float* x_scales = c.q.scales + int64_t(row) * num_groups;
        for (int g = begin / c.group; g < end / c.group; ++g) {
            VecI whole[R][P][kVecs] = {};
            add_group<R, P>(weight + int64_t(g) * c.group * kPanel, x + g * c.group, c.num_inputs, c.group, whole);
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) {
                    const Vec scale = load(scales + (int64_t(p) * num_groups + g) * kPanel + v * kLanes);
                    for (int r = 0; r < R; ++r)
                        sums[r][p][v] += __builtin_convertvector(whole[r][p][v], Vec) *
                                         (scale * broadcast(x_scales[int64_t(r) * num_groups + g]));
                }
        }
    }

    template <int R, int P>
    static void add_group(const int8_t* weight, const int16_t* x, int64_t stride, int group,
                          VecI (&whole)[R][P][kVecs]) {
        const int64_t apart = stride * kPanel;
        for (int i = 0; i < group; i += 4, weight += 4 * kPanel) {
            prefetch<P>(weight, apart);
            VecS first[P][kVecs], second[P][kVecs];
            for (int p = 0; p < P; ++p)
                for (int v = 0; v < kVecs; ++v) {
                    VecS bytes;
                    memcpy(&bytes, weight + p * apart + 4 * v * kLanes, sizeof bytes);
                    first[p][v] = (bytes << 8) >> 8;
                    second[p][v] = bytes >> 8;
                }
            for (int r = 0; r < R; ++r) {
                const VecS pair = broadcast_pair(x + r * stride + i), next = broadcast_pair(x + r * stride + i + 2);
                for (int p = 0; p < P; ++p)
                    for (int v = 0; v < kVecs; ++v)
                        whole[r][p][v] = add_pairs(add_pairs(whole[r][p][v], first[p][v], pair), second[p][v], next);
            }
        }
    }

    static VecS broadcast_pair(const int16_t* p) {
        int32_t pair;
        memcpy(&pair, p, sizeof pair);
        return (VecS)(pair - VecI{});
    }
};

// Adding it rounds to an integer: 1.5 * 2^23.
constexpr float kRounds = 12582912.0f;

inline float abs(float x) { return __builtin_fabsf(x); }

inline Vec abs(Vec x) { return (Vec)((VecU)x & 0x7fffffffu); }

// The largest size of a number; NaN where one is infinite or NaN.
inline float largest_of(const float* x, int count) {
    Vec most = {}, poison = {};
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        const Vec size = abs(load(x + i));
        most = vmax(most, size);
        poison += size * 0;
    }
    float all = max(most), nothing = sum(poison);
    for (; i < count; ++i) {
        all = abs(x[i]) > all ? abs(x[i]) : all;
        nothing += x[i] * 0;
    }
    return all + nothing;
}

// One group of one row to 16 bits, the largest of it to 32767.
inline float quantize_group(const float* x, int count, int16_t* out) {
    const float largest = largest_of(x, count), inverse = largest > 0 ? 32767 / largest : 0;
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        const VecI whole = (VecI)(load(x + i) * inverse + kRounds) - (VecI)broadcast(kRounds);
        typedef int16_t VecHalf __attribute__((vector_size(kLanes * 2)));
        const VecHalf half = __builtin_convertvector(whole, VecHalf);
        memcpy(out + i, &half, sizeof half);
    }
    for (; i < count; ++i) out[i] = int16_t((x[i] * inverse + kRounds) - kRounds);
    return largest / 32767;
}

void quantize(const LinearCall& c, int first_row, int end_row) {
    const int num_groups = c.num_inputs / c.group;
    for (int64_t at = int64_t(first_row) * num_groups; at < int64_t(end_row) * num_groups; ++at)
        c.q.scales[at] = quantize_group(c.x + at * c.group, c.group, c.q.values + at * c.group);
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
