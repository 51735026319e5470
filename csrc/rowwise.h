// What a layer does to each row by itself: residual sums, normalization, activations, caps.

#pragma once

#include <cstdint>

namespace trtdisagg {

// x / root mean square * weight or, with a bias, (x - mean) / standard deviation * weight + bias.
// Without a weight there is none.
struct Norm {
    int width;
    const float* weight;
    const float* bias;
    float eps;
};

// x += post(delta), where there is a delta; then out = norm(x), where there is a norm.
struct NormCall {
    int width;
    float* x;      // [rows][width]
    float* delta;  // [rows][width], or null; its content is lost
    Norm post;
    Norm norm;
    float* out;  // [rows][width]
};

enum class Activation { silu, gelu, gelu_tanh };

// out = activation(in) or, gated, activation(gate) * up
struct ActivationCall {
    Activation activation;
    bool is_gated;
    int width;
    const float* in;  // [rows][width] or, gated, [rows][2 width]: gate, then up
    float* out;       // [rows][width]
};

struct RowwiseKernels {
    void (*norm)(const NormCall&, int begin, int end);  // the rows from begin to end
    void (*activate)(const ActivationCall&, int begin, int end);
    void (*softcap)(float* x, int64_t count, float cap);
    void (*widen)(const uint16_t* bf16, int64_t count, float* out);
    void (*add_scaled)(const float* x, int64_t count, float scale, float* sum);  // sum += scale x
};

}  // namespace trtdisagg
