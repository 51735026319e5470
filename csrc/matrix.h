// A weight bound once, to be multiplied with any number of rows.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "workers.h"

namespace trtdisagg {

enum class WeightType { bf16, f32 };

class Matrix {
public:
    // Takes the weight over: its memory is rearranged into panels in place (linear.h) and must outlive the object.
    // `weight` is [num_outputs][num_inputs]; `bias`, [num_outputs] or null, must outlive the object too.
    Matrix(void* weight, WeightType type, const float* bias, int num_outputs, int num_inputs,
           std::shared_ptr<Workers> workers, const std::string& isa = "");

    int outputs() const { return num_outputs_; }
    int inputs() const { return num_inputs_; }

    // out [num_rows][outputs] = x [num_rows][inputs] weight^T + bias
    void run(const float* x, float* out, int num_rows) const;

    // The same in pieces, for threads that the caller has: each task once, in any order, at the same time or not.
    int num_tasks(int num_rows) const;
    void run_task(const float* x, float* out, int num_rows, int task) const;

    // The weight's row for one output, as it came: an embedding is looked up in the matrix it is tied to.
    void row(int output, float* out) const;

private:
    int num_panels() const { return (num_outputs_ + kPanel - 1) / kPanel; }
    int num_row_parts(int num_rows) const;
    int num_panel_parts(int num_rows) const;

    const char* const weight_;
    const WeightType type_;
    const float* const bias_;
    const int num_outputs_;
    const int num_inputs_;
    std::vector<char> last_;  // the last panel, padded with zeros, where it is not full
    const std::shared_ptr<Workers> workers_;
    const LinearKernels& kernels_;
};

}  // namespace trtdisagg
