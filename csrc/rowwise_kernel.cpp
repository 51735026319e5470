// The row-wise kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "rowwise.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

template <typename T>
void add(T* x, const T* delta, int width) {
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) store(x + i, load(x + i) + load(delta + i));
    for (; i < width; ++i) from_float(to_float(x[i]) + to_float(delta[i]), x + i);
}

template <typename T>
float sum_of_squares(const T* x, int width) {
    Vec total{};
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) total += load(x + i) * load(x + i);
    float rest = sum(total);
    for (; i < width; ++i) rest += to_float(x[i]) * to_float(x[i]);
    return rest;
}

template <typename T>
void norm(const NormCall& c, int begin, int end) {
    const T* weight = static_cast<const T*>(c.weight);
    for (int64_t row = begin; row < end; ++row) {
        T* x = static_cast<T*>(c.x) + row * c.width;
        T* out = static_cast<T*>(c.out) + row * c.width;
        if (c.delta) add(x, static_cast<const T*>(c.delta) + row * c.width, c.width);
        const float scale = 1.0f / __builtin_sqrtf(sum_of_squares(x, c.width) / c.width + c.eps);
        int i = 0;
        for (; i + kLanes <= c.width; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
        for (; i < c.width; ++i) from_float(to_float(x[i]) * scale * to_float(weight[i]), out + i);
    }
}

// x / (1 + e^-x), with an exponent that cannot overflow.
inline Vec silu(Vec x) {
    const Vec e = exp_nonpositive(x < 0 ? x : -x);
    return x * (x < 0 ? e : e - e + 1.0f) / (1.0f + e);
}

template <typename T>
void gate(const GateCall& c, int begin, int end) {
    for (int64_t row = begin; row < end; ++row) {
        const T* gate = static_cast<const T*>(c.gate_up) + row * 2 * c.width;
        const T* up = gate + c.width;
        T* out = static_cast<T*>(c.out) + row * c.width;
        int i = 0;
        for (; i + kLanes <= c.width; i += kLanes) store(out + i, silu(load(gate + i)) * load(up + i));
        for (; i < c.width; ++i) from_float(silu(broadcast(to_float(gate[i])))[0] * to_float(up[i]), out + i);
    }
}

}  // namespace

extern const RowwiseKernels rowwise_kernels;
const RowwiseKernels rowwise_kernels = {norm<uint16_t>, norm<float>, gate<uint16_t>, gate<float>};

}  // namespace trtdisagg::TRTDISAGG_ISA
