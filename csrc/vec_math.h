// Functions of vectors: activations, caps, sums across lanes. Kernel files only.

#pragma once

#include "vec.h"

namespace {

inline Vec vabs(Vec x) { return x < 0 ? -x : x; }

// As far as a sum of floats is exact, near 0 too: (1 - e) / (1 + e) with e = exp(-2 |x|).
inline Vec tanh_of(Vec x) {
    const Vec e = exp_nonpositive(-2.0f * vabs(x));
    const Vec t = (1.0f - e) / (1.0f + e);
    return x != x ? x : x < 0 ? -t : t;
}

inline Vec softcapped(Vec x, float cap) { return cap * tanh_of(x * (1.0f / cap)); }

// x / (1 + e^-x), with an exponent that cannot overflow.
inline Vec silu(Vec x) {
    const Vec e = exp_nonpositive(x < 0 ? x : -x);
    return x * (x < 0 ? e : e - e + 1.0f) / (1.0f + e);
}

// x / 2 erfc(-x / sqrt 2), the error function to within 1.5e-7 (Abramowitz and Stegun, 7.1.26).
inline Vec gelu(Vec x) {
    const Vec z = vabs(x) * 0.70710678118654752f;
    const Vec t = 1.0f / (1.0f + 0.3275911f * z);
    Vec p = broadcast(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Vec rest = 0.5f * x * (p * t * exp_nonpositive(-z * z));
    return x != x ? x : x < 0 ? rest : x - rest;
}

inline Vec gelu_tanh(Vec x) {
    return 0.5f * x * (1.0f + tanh_of(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

// The sums of four vectors, side by side.
inline void sum_four(const Vec* v, float* sums) {
#if defined(__AVX2__)
    __m128 part[4];
    for (int i = 0; i < 4; ++i) {
#if defined(__AVX512F__)
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v[i]), 1));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v[i]), high);
#else
        const __m256 half = (__m256)v[i];
#endif
        part[i] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    }
    _mm_storeu_ps(sums, _mm_hadd_ps(_mm_hadd_ps(part[0], part[1]), _mm_hadd_ps(part[2], part[3])));
#else
    for (int i = 0; i < 4; ++i) sums[i] = sum(v[i]);
#endif
}

}  // namespace
