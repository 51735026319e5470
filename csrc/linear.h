// out = x weight^T + bias for any number of rows of x: what binding and kernels share.
//
// A weight lies in panels of kPanel outputs, one panel behind the other, and within a panel step by step along the
// inputs. A step is 64 bytes, 4 of each output:
//
//     float32   [panel][input][output]                 a step is one input
//     bfloat16  [panel][input / 2][output][2]          two: a shift and a mask make vectors of floats
//     int8      [panel][input / 4][output][4]          four, in the order 0 2 1 3: two shifts make vectors of pairs
//
// So a single row reads one stream of bytes, many rows have a vector of outputs side by side and sum nothing across
// lanes, and vectors of any width fit. Of bfloat16 the last of an odd number of inputs lies behind the last full step,
// one column. Each sum runs over the inputs in order and in one chain, whatever the number of rows: a row's result does
// not depend on the other rows.
//
// But for bfloat16 on a CPU that multiplies pairs of them: with more than kRowsUnrounded rows x is rounded to bfloat16
// too. There a row's result depends on whether the others are that many, within the error of that rounding.

#pragma once

#include <cstdint>

namespace trtdisagg {

constexpr int kPanel = 16;

// int8: a weight's value is its number times the scale of its output and its group of inputs. x is rounded to 16 bits,
// with a scale for each row and group, so that the products of a group can be summed as integers: with these, exactly.
constexpr int kGroupAtMost = 512;  // 512 * 127 * 32767 is just below 2^31

// bfloat16: with so few rows reading the weights is what takes the time, and rounding x would gain nothing.
constexpr int kRowsUnrounded = 8;

// What a weight's last panel needs when it is not full: it lies elsewhere, padded.
struct Panels {
    const void* weight;   // all full ones
    const void* last;     // or null
    const float* scales;  // [panel][group][output], or null
    const float* last_scales;
};

struct QuantizedRows {
    int16_t* values;  // [num_rows][num_inputs]
    float* scales;    // [num_rows][num_inputs / group]
};

struct LinearCall {
    Panels panels;
    const float* bias;  // [num_outputs], or null
    int num_outputs;
    int num_inputs;
    int group;          // of int8: inputs that share a scale
    const float* x;     // [num_rows][num_inputs]
    QuantizedRows q;    // x for int8
    uint16_t* rounded;  // x for pairs of bfloat16, [num_rows][num_inputs, and one more where they are odd]
    float* out;         // [num_rows][num_outputs]
};

// The part of a product that is done at once.
struct LinearPart {
    int first_panel, end_panel;
    int first_row, end_row;
};

struct LinearKernels {
    void (*multiply_bf16)(const LinearCall&, const LinearPart&);
    void (*multiply_f32)(const LinearCall&, const LinearPart&);
    void (*multiply_int8)(const LinearCall&, const LinearPart&);
    void (*quantize)(const LinearCall&, int first_row, int end_row);  // x to q
    void (*multiply_pairs)(const LinearCall&, const LinearPart&);     // bfloat16 weights with `rounded`
    void (*round)(const LinearCall&, int first_row, int end_row);     // x to rounded
    bool has_pairs;  // there is an instruction for pairs: without, multiply_bf16 is faster and more precise
};

}  // namespace trtdisagg
