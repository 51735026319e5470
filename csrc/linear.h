// out = x weight^T + bias for any number of rows of x: what binding and kernels share.
//
// A weight lies in panels of kPanel outputs, one panel behind the other, and within a panel step by step along the
// inputs, so that one layout serves a single row (a panel is one stream of bytes), many rows (a vector holds outputs
// side by side, so nothing is summed across lanes) and every instruction set:
//
//     float32   [panel][input][output]                 a step is one input
//     bfloat16  [panel][input / 2][output][2]          a step is two: a shift and a mask make two vectors of floats
//     int8      [panel][input / 4][output][4]          a step is four, which integer dot products take at once
//
// A step is 64 bytes. Inputs behind the last full step of bfloat16 lie behind it, one column. Each sum runs over the
// inputs in order and in one chain, whatever the number of rows: a row's result does not depend on the other rows.

#pragma once

#include <cstdint>

namespace trtdisagg {

constexpr int kPanel = 16;

struct LinearCall {
    const void* weight;  // in panels
    const void* last;    // the last panel, where num_outputs is no multiple of kPanel: elsewhere, and padded
    const float* bias;   // [num_outputs], or null
    int num_outputs;
    int num_inputs;
    const float* x;  // [num_rows][num_inputs]
    float* out;      // [num_rows][num_outputs]
};

// The part of a product that is done at once.
struct LinearPart {
    int first_panel, end_panel;
    int first_row, end_row;
};

struct LinearKernels {
    void (*multiply_bf16)(const LinearCall&, const LinearPart&);
    void (*multiply_f32)(const LinearCall&, const LinearPart&);
};

}  // namespace trtdisagg
