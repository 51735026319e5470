// What a layer does to each row by itself: normalization and the gated activation.

#pragma once

#include <cstdint>

namespace trtdisagg {

// x += delta (where there is one), then out = x / root mean square(x) * weight.
struct NormCall {
    int width;
    float eps;
    void* x;            // [rows][width]
    const void* delta;  // [rows][width], or null
    const void* weight;  // [width]
    void* out;          // [rows][width]
};

// out = silu(gate) * up
struct GateCall {
    int width;
    const void* gate_up;  // [rows][2 width]: gate, then up
    void* out;            // [rows][width]
};

struct RowwiseKernels {
    void (*norm_bf16)(const NormCall&, int begin, int end);  // the rows from begin to end
    void (*norm_f32)(const NormCall&, int begin, int end);
    void (*gate_bf16)(const GateCall&, int begin, int end);
    void (*gate_f32)(const GateCall&, int begin, int end);
};

}  // namespace trtdisagg
