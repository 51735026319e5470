// Vectors of floats as wide as the instruction set this file is compiled for, and how bfloat16 becomes floats.
//
// Included by the kernel files only. Each of them is compiled once per instruction set, so everything here has internal
// linkage and nothing from the standard library is used: a function template compiled for AVX-512 must never be the one
// that the linker keeps for everybody.

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));

inline Vec broadcast(float x) { return x - Vec{}; }

inline Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

// bfloat16 is the upper half of a float.
inline Vec load(const uint16_t* p) {
#if defined(__AVX512F__)
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
    VecH half;
    memcpy(&half, p, sizeof half);
    return (Vec)(__builtin_convertvector(half, VecU) << 16);
#endif
}

inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

inline float to_float(float x) { return x; }

inline float to_float(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

inline void from_float(float x, float* p) { *p = x; }

// Rounds to nearest even; NaN stays NaN.
inline void from_float(float x, uint16_t* p) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) {
        *p = uint16_t((bits >> 16) | 0x40);
        return;
    }
    *p = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// As above, for all lanes.
inline void store(uint16_t* p, Vec v) {
    const VecU bits = (VecU)v;
    const VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const VecU quiet = (bits >> 16) | 0x40;
    const VecH half = __builtin_convertvector(v == v ? rounded : quiet, VecH);
    memcpy(p, &half, sizeof half);
}

inline float sum(Vec v) {
    float lanes[kLanes];
    memcpy(lanes, &v, sizeof v);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }

inline float max(Vec v) {
    float m = v[0];
    for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
    return m;
}

// e^x for x <= 0, to within 2 units in the last place; 0 below -87 (also for -infinity).
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to the 7th power.
inline Vec exp_nonpositive(Vec x) {
    const Vec lowest = broadcast(-87.0f);
    const VecI keep = x >= lowest;
    x = vmax(x, lowest);
    const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vec n = (x * 1.44269504088896341f + magic) - magic;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = broadcast(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const VecI power = (__builtin_convertvector(n, VecI) + 127) << 23;
    return (Vec)((VecI)(p * (Vec)power) & keep);
}

}  // namespace
