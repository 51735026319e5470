// A weight bound once, to be multiplied with any number of rows.

#pragma once

#include <memory>
#include <string>

#include "kernels.h"
#include "panels.h"
#include "workers.h"

namespace trtdisagg {

class Matrix {
public:
    // Takes the weight over: its memory, and that of the scales, is rearranged into panels in place (panels.h).
    //
    // `weight` is [num_outputs][num_inputs]. int8 has `scales`, [num_outputs][num_inputs / group], where `group` is a
    // multiple of 4 that divides num_inputs and is at most kGroupAtMost. `bias` is [num_outputs] or null. All of it must
    // outlive the object.
    Matrix(void* weight, WeightType type, float* scales, int group, const float* bias, int num_outputs, int num_inputs,
           std::shared_ptr<Workers> workers, const std::string& isa = "");

    int outputs() const { return num_outputs_; }
    int inputs() const { return num_inputs_; }

    // out [num_rows][outputs] = x [num_rows][inputs] weight^T + bias
    void run(const float* x, float* out, int num_rows) const;

    // The weight's row for one output, as it came: an embedding is looked up in the matrix it is tied to.
    void row(int output, float* out) const { weight_.row(output, out); }

private:
    int num_panels() const { return (num_outputs_ + kPanel - 1) / kPanel; }
    int num_row_parts(int num_rows) const;
    int num_panel_parts(int num_rows) const;
    using Prepare = void (*)(const LinearCall&, int first_row, int end_row);
    using Multiply = void (*)(const LinearCall&, const LinearPart&);
    void quantize(LinearCall& call, int num_rows, int num_threads) const;
    void round(LinearCall& call, int num_rows, int num_threads) const;
    void prepare(Prepare kernel, const LinearCall& call, int num_rows, int num_threads) const;
    Multiply multiply_of(bool is_rounded) const;
    LinearPart part(int task, int num_rows) const;

    const PackedWeight weight_;
    const WeightType type_;
    const int group_;
    const float* const bias_;
    const int num_outputs_;
    const int num_inputs_;
    const std::shared_ptr<Workers> workers_;
    const LinearKernels& kernels_;
};

}  // namespace trtdisagg
