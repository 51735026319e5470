// The sampling kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).
//
// Compiled without contraction: each product and each sum is rounded, so that every machine draws the same tokens.

#include "sampling.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kBlock = kSamplingBlock;
constexpr float kLog2E = 1.44269504088896341f;

inline Vec load_or_nothing(const float* x, int count) {
    if (count >= kLanes) return load(x);
    float lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = i < count ? x[i] : -__builtin_inff();
    return load(lanes);
}

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

// Call body(vector of scaled values, first token) for all blocks that have a value of at least `least`.
template <typename Body>
inline void for_scaled(const ScaledRow& r, float least, const Body& body) {
    for (int block = 0, begin = 0; begin < r.vocab; ++block, begin += kBlock) {
        if (!((r.maxima[block] - r.top) * r.inverse_temperature >= least)) continue;
        const int end = begin + kBlock < r.vocab ? begin + kBlock : r.vocab;
        for (int i = begin; i < end; i += kLanes)
            body((load_or_nothing(r.x + i, end - i) - r.top) * r.inverse_temperature, i);
    }
}

bool block_maxima(const float* x, int vocab, float* maxima) {
    VecI are_numbers = VecI{} == 0;
    for (int begin = 0; begin < vocab; begin += kBlock) {
        Vec most = broadcast(-__builtin_inff());
        for (int i = begin; i < begin + kBlock && i < vocab; i += kLanes) {
            const Vec v = load_or_nothing(x + i, vocab - i);
            are_numbers &= v == v;
            most = vmax(most, v);
        }
        *maxima++ = max(most);
    }
    return !any(~are_numbers);
}

// Eight floats or so become doubles by fours.
typedef double Vec4d __attribute__((vector_size(32)));
typedef float Vec4 __attribute__((vector_size(16)));

template <typename Map>
inline void add_doubles(Vec4d* sums, Vec v, const Map& map) {
    float lanes[kLanes];
    store(lanes, v);
    for (int i = 0; i < kLanes / 4; ++i) {
        Vec4 four;
        memcpy(&four, lanes + 4 * i, sizeof four);
        sums[i] += map(__builtin_convertvector(four, Vec4d));
    }
}

inline double sum(const Vec4d* sums) {
    double total = 0;
    for (int i = 0; i < kLanes / 4; ++i) total += (sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]);
    return total;
}

constexpr double kRounding = 1.5 * (1 << 18);  // adding it rounds to a multiple of 2^-34

double mass(const ScaledRow& r) {
    Vec4d sums[kLanes / 4] = {};
    for_scaled(r, -24.5f, [&](Vec scaled, int) {  // e^-24.3 is 2^-35
        add_doubles(sums, exp_nonpositive(scaled), [](Vec4d w) { return (w + kRounding) - kRounding; });
    });
    return sum(sums);
}

double weight(const ScaledRow& r) {
    Vec4d sums[kLanes / 4] = {};
    for_scaled(r, -40.0f, [&](Vec scaled, int) {
        add_doubles(sums, exp_nonpositive(scaled), [](Vec4d w) { return w; });
    });
    return sum(sums);
}

void masses(const float* scaled, int count, double* out) {
    for (int i = 0; i < count; i += kLanes) {
        const Vec w = exp_nonpositive(load_or_nothing(scaled + i, count - i));
        for (int lane = 0; lane < kLanes && i + lane < count; ++lane) out[i + lane] = (w[lane] + kRounding) - kRounding;
    }
}

int gather(const ScaledRow& r, float least, Gathered out) {
    int count = 0;
    for_scaled(r, least, [&](Vec scaled, int first) {
        if (!any(scaled >= least)) return;
        for (int lane = 0; lane < kLanes && first + lane < r.vocab; ++lane) {
            out.values[count] = scaled[lane];
            out.ids[count] = first + lane;
            count += scaled[lane] >= least;
        }
    });
    return count;
}

// 32 random bits of a token: the finalizer of MurmurHash3, keyed at its entry and in the middle.
template <typename U>
inline U hash(U id, uint64_t key) {
    U z = id * 0x9E3779B9u + uint32_t(key);
    z ^= z >> 16;
    z *= 0x85EBCA6Bu;
    z ^= uint32_t(key >> 32);
    z ^= z >> 13;
    z *= 0xC2B2AE35u;
    return z ^ (z >> 16);
}

struct Winner {
    int id;
    double score;

    void challenge(int other, float scaled, uint32_t bits) {
        const double u = (bits + 0.5) * (1.0 / 4294967296.0);
        const double other_score = scaled - __builtin_log(-__builtin_log1p(-u));
        if (other_score > score || (other_score == score && other < id)) *this = {other, other_score};
    }
};

// log2 of (bits + 0.5) / 2^32, too small by up to 0.09: the bits of a float are its logarithm but for the curve between
// two powers.
inline Vec log2_below(VecU bits) {
    const Vec half = __builtin_convertvector((VecI)(bits >> 1), Vec) + 0.25f;
    return __builtin_convertvector((VecI)half, Vec) * (1.0f / (1 << 23)) - (127 + 31);
}

// The noise -log E of a token, where E = -log(1 - u) >= u, is at most -log u: that is taken for all, cheaply, and the
// two logarithms only for the few that could win by it.
int contest(const ScaledRow& r, float least, uint64_t key) {
    Winner winner = {r.vocab, -__builtin_inf()};
    const float slack = 1e-3f;  // for rounding
    VecU lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    for_scaled(r, 0, [&](Vec scaled, int first) {  // a top first: it is hard to beat
        for (int lane = 0; lane < kLanes && winner.id == r.vocab; ++lane)
            if (scaled[lane] == 0) winner.challenge(first + lane, 0, hash(uint32_t(first + lane), key));
    });
    const float hopeless = float(winner.score) - 33 / kLog2E - slack;
    for_scaled(r, least > hopeless ? least : hopeless, [&](Vec scaled, int first) {
        const VecU bits = hash(lanes + uint32_t(first), key);
        const VecI can_win = log2_below(bits) <= (scaled - float(winner.score)) * kLog2E + slack;
        if (!any(can_win & (scaled >= least))) return;
        for (int lane = 0; lane < kLanes && first + lane < r.vocab; ++lane)
            if (can_win[lane] && scaled[lane] >= least) winner.challenge(first + lane, scaled[lane], bits[lane]);
    });
    return winner.id;
}

}  // namespace

extern const SamplingKernels sampling_kernels;
const SamplingKernels sampling_kernels = {block_maxima, mass, weight, masses, gather, contest};

}  // namespace trtdisagg::TRTDISAGG_ISA
