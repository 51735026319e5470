// The row-wise kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "norm.h"
#include "rowwise.h"
#include "vec_math.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

void add_scaled(const float* x, int64_t count, float scale, float* total) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(total + i, load(total + i) + load(x + i) * scale);
    for (; i < count; ++i) total[i] += x[i] * scale;
}

void norm(const NormCall& c, int begin, int end) {
    for (int64_t row = begin; row < end; ++row) {
        float* x = c.x + row * c.width;
        if (c.delta) {
            float* delta = c.delta + row * c.width;
            if (c.post.weight) normalize(c.post, delta, c.width, delta);
            add_scaled(delta, c.width, 1.0f, x);
        }
        if (c.norm.weight) normalize(c.norm, x, c.width, c.out + row * c.width);
    }
}

template <Vec (*act)(Vec), bool is_gated>
void activate_row(const float* in, int width, float* out) {
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        const Vec y = act(load(in + i));
        store(out + i, is_gated ? y * load(in + width + i) : y);
    }
    for (; i < width; ++i) out[i] = act(broadcast(in[i]))[0] * (is_gated ? in[width + i] : 1.0f);
}

template <Vec (*act)(Vec)>
void activate_rows(const ActivationCall& c, int begin, int end) {
    for (int64_t row = begin; row < end; ++row) {
        float* out = c.out + row * c.width;
        if (c.is_gated)
            activate_row<act, true>(c.in + row * 2 * c.width, c.width, out);
        else
            activate_row<act, false>(c.in + row * c.width, c.width, out);
    }
}

void activate(const ActivationCall& c, int begin, int end) {
    switch (c.activation) {
        case Activation::silu: return activate_rows<silu>(c, begin, end);
        case Activation::gelu: return activate_rows<gelu>(c, begin, end);
        case Activation::gelu_tanh: return activate_rows<gelu_tanh>(c, begin, end);
    }
}

void softcap(float* x, int64_t count, float cap) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(x + i, softcapped(load(x + i), cap));
    for (; i < count; ++i) x[i] = softcapped(broadcast(x[i]), cap)[0];
}

void widen(const uint16_t* bf16, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load(bf16 + i));
    for (; i < count; ++i) out[i] = to_float(bf16[i]);
}

}  // namespace

extern const RowwiseKernels rowwise_kernels;
const RowwiseKernels rowwise_kernels = {norm, activate, softcap, widen, add_scaled};

}  // namespace trtdisagg::TRTDISAGG_ISA
