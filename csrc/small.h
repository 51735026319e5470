// out[row][output] = sum over i of x[row][i] * weight[output][i], for a few rows: what binding and kernels share.
//
// With few rows the time goes into reading the weight, so it is read once, where it lies, and bfloat16 is widened in
// registers. With many rows a matrix library does better (engine/linear.py chooses).

#pragma once

#include <cstdint>

namespace trtdisagg {

struct SmallCall {
    int num_rows;
    int num_inputs;
    const void* weight;  // [num_outputs][num_inputs]
    const void* x;       // [num_rows][num_inputs], of the weight's type
    float* widened;      // [num_rows][num_inputs]: x as `widen` leaves it
    void* out;           // [num_rows][num_outputs], of the weight's type or, with `out_is_float`, float
    bool out_is_float;
    int num_outputs;
};

struct SmallKernels {
    void (*widen_bf16)(const SmallCall&);
    void (*multiply_bf16)(const SmallCall&, int begin, int end);  // the outputs from begin to end
    void (*widen_f32)(const SmallCall&);
    void (*multiply_f32)(const SmallCall&, int begin, int end);
};

}  // namespace trtdisagg
