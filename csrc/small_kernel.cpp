// The small-batch product, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "small.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

// Inputs are taken 2 * kLanes at a time. The part of a row behind the last full such step is summed one by one.
constexpr int kStep = 2 * kLanes;
// Rows of x per pass: with two sums each, as many as there are registers for.
constexpr int kRows = kLanes == 16 ? 12 : 6;
// Outputs whose weights stay in the nearest cache while pass after pass of rows uses them.
constexpr int kOutputs = 8;

// Two vectors from 2 * kLanes weights. Of bfloat16 the even ones, then the odd ones: a shift and a mask, where widening
// in order would take a shuffle too. `widen` puts x in the same order.
inline void load_step(const float* p, Vec& first, Vec& second) {
    first = load(p);
    second = load(p + kLanes);
}

inline void load_step(const uint16_t* p, Vec& even, Vec& odd) {
    VecU pairs;
    memcpy(&pairs, p, sizeof pairs);
    even = (Vec)(pairs << 16);
    odd = (Vec)(pairs & 0xffff0000u);
}

inline int place(int i, const float*) { return i; }

inline int place(int i, const uint16_t*) {
    const int step = i / kStep * kStep, within = i % kStep;
    return step + within / 2 + (within % 2) * kLanes;
}

template <typename T>
void widen(const SmallCall& c) {
    const T* x = static_cast<const T*>(c.x);
    const int full = c.num_inputs / kStep * kStep;
    for (int64_t r = 0; r < c.num_rows; ++r) {
        const T* from = x + r * c.num_inputs;
        float* to = c.widened + r * c.num_inputs;
        for (int i = 0; i < full; ++i) to[place(i, x)] = to_float(from[i]);
        for (int i = full; i < c.num_inputs; ++i) to[i] = to_float(from[i]);
    }
}

template <int R>
inline void add_step(const float* x, int n, Vec first, Vec second, Vec (*acc)[2]) {
    for (int r = 0; r < R; ++r) {
        acc[r][0] += load(x + int64_t(r) * n) * first;
        acc[r][1] += load(x + int64_t(r) * n + kLanes) * second;
    }
}

// R rows of x with one output, so that the weight is one stream of bytes, which the hardware fetches ahead best. A
// single row alternates between two pairs of sums: one pair would wait for its own additions.
template <int R, typename T>
inline void multiply_output(const SmallCall& c, int row, int output) {
    const int n = c.num_inputs, full = n / kStep * kStep;
    const float* x = c.widened + int64_t(row) * n;
    const T* weight = static_cast<const T*>(c.weight) + int64_t(output) * n;
    Vec acc[R][2] = {}, more[R][2] = {}, first, second;
    int i = 0;
    for (; R == 1 && i + 2 * kStep <= full; i += 2 * kStep) {
        load_step(weight + i, first, second);
        add_step<R>(x + i, n, first, second, acc);
        load_step(weight + i + kStep, first, second);
        add_step<R>(x + i + kStep, n, first, second, more);
    }
    for (; i < full; i += kStep) {
        load_step(weight + i, first, second);
        add_step<R>(x + i, n, first, second, acc);
    }
    for (int r = 0; r < R; ++r) {
        float total = sum((acc[r][0] + acc[r][1]) + (more[r][0] + more[r][1]));
        for (int j = full; j < n; ++j) total += x[int64_t(r) * n + j] * to_float(weight[j]);
        const int64_t at = int64_t(row + r) * c.num_outputs + output;
        if (c.out_is_float)
            from_float(total, static_cast<float*>(c.out) + at);
        else
            from_float(total, static_cast<T*>(c.out) + at);
    }
}

template <int R, typename T>
inline void multiply_pass(const SmallCall& c, int row, int begin, int end) {
    for (int output = begin; output < end; ++output) multiply_output<R, T>(c, row, output);
}

// The rows that are left over, fewer than kRows.
template <int R, typename T>
inline void multiply_rest(const SmallCall& c, int row, int begin, int end) {
    if constexpr (R > 0) {
        if (c.num_rows - row == R)
            multiply_pass<R, T>(c, row, begin, end);
        else
            multiply_rest<R - 1, T>(c, row, begin, end);
    }
}

template <typename T>
void multiply(const SmallCall& c, int begin, int end) {
    for (int output = begin; output < end; output += kOutputs) {
        const int until = output + kOutputs < end ? output + kOutputs : end;
        int row = 0;
        for (; row + kRows <= c.num_rows; row += kRows) multiply_pass<kRows, T>(c, row, output, until);
        multiply_rest<kRows - 1, T>(c, row, output, until);
    }
}

}  // namespace

extern const SmallKernels small_kernels;
const SmallKernels small_kernels = {widen<uint16_t>, multiply<uint16_t>, widen<float>, multiply<float>};

}  // namespace trtdisagg::TRTDISAGG_ISA
