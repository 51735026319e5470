// The sampling kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).
//
// Compiled without contraction: each product and each sum is rounded, so that every machine draws the same tokens.

#include "sampling.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kBlock = kSamplingBlock;
constexpr float kNothing = -__builtin_inff();

inline bool any(VecI lanes) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes);
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)lanes);
#else
    int32_t all = 0;
    for (int i = 0; i < kLanes; ++i) all |= lanes[i];
    return all;
#endif
}

// Call body(logits of a block, its number) for each block; the last is filled up with what is not possible.
template <typename Body>
inline void for_blocks(const float* x, int vocab, const Body& body) {
    const int num_whole = vocab / kBlock;
    for (int block = 0; block < num_whole; ++block) body(x + block * kBlock, block);
    if (vocab % kBlock == 0) return;
    float last[kBlock];
    for (int i = 0; i < kBlock; ++i) last[i] = i < vocab % kBlock ? x[num_whole * kBlock + i] : kNothing;
    body(last, num_whole);
}

// The same for those blocks that have a scaled value of at least `least`.
template <typename Body>
inline void for_blocks_above(const ScaledRow& r, float least, const Body& body) {
    for_blocks(r.x, r.vocab, [&](const float* x, int block) {
        if ((r.maxima[block] - r.top) * r.inverse_temperature >= least) body(x, block * kBlock);
    });
}

inline Vec load_scaled(const ScaledRow& r, const float* x) { return (load(x) - r.top) * r.inverse_temperature; }

bool block_maxima(const float* x, int vocab, float* maxima) {
    VecI are_numbers = VecI{} == 0;
    for_blocks(x, vocab, [&](const float* values, int block) {
        Vec most = load(values);
        VecI numbers = most == most;
        for (int i = kLanes; i < kBlock; i += kLanes) {
            const Vec v = load(values + i);
            numbers &= v == v;
            most = vmax(most, v);
        }
        are_numbers &= numbers;
        maxima[block] = max(most);
    });
    return !any(~are_numbers);
}

typedef double Vec4d __attribute__((vector_size(32)));
typedef float Vec4 __attribute__((vector_size(16)));

struct Sums {
    Vec4d four[kLanes / 4] = {};

    void add(Vec v) {
        float lanes[kLanes];
        store(lanes, v);
        for (int i = 0; i < kLanes / 4; ++i) {
            Vec4 part;
            memcpy(&part, lanes + 4 * i, sizeof part);
            four[i] += __builtin_convertvector(part, Vec4d);
        }
    }

    double total() const {
        double all = 0;
        for (const Vec4d& v : four) all += (v[0] + v[1]) + (v[2] + v[3]);
        return all;
    }
};

// To a multiple of 2^-34; of 2^-11 and above all floats are such.
inline Vec rounded(Vec w) {
    const float grid = 1.0f / (1 << 11);
    return w < grid ? (w + grid) - grid : w;
}

// Sums of masses are exact: in double always, and in float as long as they are below 2^-10.
double mass(const ScaledRow& r, float least, int* count) {
    Sums sums;
    VecI counts{};
    const float nothing_below = -24.5f;  // e^-24.3 is 2^-35
    for_blocks_above(r, least > nothing_below ? least : nothing_below, [&](const float* x, int first) {
        const bool is_small = (r.maxima[first / kBlock] - r.top) * r.inverse_temperature < -9.8f;  // e^-9.7 is 2^-14
        Vec small{};
        for (int i = 0; i < kBlock; i += kLanes) {
            const Vec scaled = load_scaled(r, x + i);
            const VecI above = scaled >= least;
            const Vec m = (Vec)((VecI)rounded(exp_nonpositive(scaled)) & above);
            counts -= above;
            if (is_small) small += m;
            else sums.add(m);
        }
        if (is_small) sums.add(small);
    });
    *count = 0;
    for (int i = 0; i < kLanes; ++i) *count += counts[i];
    return sums.total();
}

double weight(const ScaledRow& r) {
    Sums sums;
    for_blocks_above(r, -40.0f, [&](const float* x, int) {
        Vec of_block{};
        for (int i = 0; i < kBlock; i += kLanes) of_block += exp_nonpositive(load_scaled(r, x + i));
        sums.add(of_block);
    });
    return sums.total();
}

void masses(const float* scaled, int count, float* out) {
    for (int begin = 0; begin < count; begin += kLanes) {
        float lanes[kLanes];
        for (int i = 0; i < kLanes; ++i) lanes[i] = begin + i < count ? scaled[begin + i] : kNothing;
        store(lanes, rounded(exp_nonpositive(load(lanes))));
        for (int i = 0; i < kLanes && begin + i < count; ++i) out[begin + i] = lanes[i];
    }
}

int gather(const ScaledRow& r, float least, float beyond, Gathered out) {
    int count = 0;
    for_blocks_above(r, least, [&](const float* x, int first) {
        for (int i = 0; i < kBlock; i += kLanes) {
            const Vec scaled = load_scaled(r, x + i);
            const VecI wanted = (scaled >= least) & (scaled < beyond);
            if (!any(wanted)) continue;
            for (int lane = 0; lane < kLanes && first + i + lane < r.vocab; ++lane) {
                out.values[count] = scaled[lane];
                out.ids[count] = first + i + lane;
                count -= wanted[lane];
            }
        }
    });
    return count;
}

// The finalizer of MurmurHash3, keyed at its entry and in the middle, but for its last step, which leaves the upper half
// as it is.
template <typename U>
inline U hash_but_last(U id, uint64_t key) {
    U z = id * 0x9E3779B9u + uint32_t(key);
    z ^= z >> 16;
    z *= 0x85EBCA6Bu;
    z ^= uint32_t(key >> 32);
    z ^= z >> 13;
    return z * 0xC2B2AE35u;
}

struct Winner {
    int id;
    double score;

    void challenge(int other, float scaled, uint64_t key) {
        const uint32_t z = hash_but_last(uint32_t(other), key);
        const double u = ((z ^ (z >> 16)) + 0.5) * (1.0 / 4294967296.0);
        const double other_score = scaled - __builtin_log(-__builtin_log1p(-u));
        if (other_score > score || (other_score == score && other < id)) *this = {other, other_score};
    }
};

// A straight line over the logits: where the number in log2's place (see below) is above it, a token cannot win.
struct Bound {
    float slope;
    float offset;

    Bound(const ScaledRow& r, double score) {
        const double log2e = 1.4426950408889634, one = 1 << 23;
        const double steep = double(r.inverse_temperature) * log2e;
        const double slack = 1e-3 + 1e-6 * steep * (r.top < 0 ? -r.top : r.top);  // for rounding
        if (steep > 1e20) {  // too steep for floats: all can win that are not hopeless
            slope = 0;
            offset = __builtin_inff();
            return;
        }
        slope = float(steep * one);
        offset = float((slack + 127 + 16 - score * log2e - r.top * steep) * one);
    }
};

// 2^23 (127 + 16 + log2 u) for u = (bits + 0.5) / 2^32, or less: the upper half of the bits is a float whose own bits,
// read as a number, are its logarithm but for the curve between two powers.
inline Vec log2_below(VecU bits) {
    const Vec half = __builtin_convertvector((VecI)(bits >> 16), Vec) + 1.0f / (1 << 18);
    return __builtin_convertvector((VecI)half, Vec);
}

inline int first_top(const ScaledRow& r) {
    int block = 0;
    while (r.maxima[block] != r.top) ++block;
    int id = block * kBlock;
    while (r.x[id] != r.top) ++id;
    return id;
}

// The noise -log E of a token, where E = -log(1 - u) >= u, is at most -log u: that is taken for all, cheaply, and the
// two logarithms only for the few that could win by it.
int contest(const ScaledRow& r, float least, uint64_t key) {
    Winner winner = {r.vocab, -__builtin_inf()};
    winner.challenge(first_top(r), 0, key);  // it is hard to beat
    Bound bound(r, winner.score);
    VecU lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    const float hopeless = float(winner.score) - 23;  // -log u is at most 22.9
    for_blocks_above(r, least > hopeless ? least : hopeless, [&](const float* x, int first) {
        VecI can_win[kBlock / kLanes], one_can{};
        for (int i = 0; i < kBlock; i += kLanes) {
            const VecU bits = hash_but_last(lanes + uint32_t(first + i), key);
            can_win[i / kLanes] = log2_below(bits) <= load(x + i) * bound.slope + bound.offset;
            one_can |= can_win[i / kLanes];
        }
        if (!any(one_can)) return;
        for (int i = 0; i < kBlock; ++i) {
            const float scaled = (x[i] - r.top) * r.inverse_temperature;
            if (can_win[i / kLanes][i % kLanes] && scaled >= least) winner.challenge(first + i, scaled, key);
        }
        bound = Bound(r, winner.score);
    });
    return winner.id;
}

}  // namespace

extern const SamplingKernels sampling_kernels;
const SamplingKernels sampling_kernels = {block_maxima, mass, weight, masses, gather, contest};

}  // namespace trtdisagg::TRTDISAGG_ISA
