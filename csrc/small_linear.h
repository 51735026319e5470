// A weight bound once, multiplied with a few rows at a time.

#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "workers.h"

namespace trtdisagg {

class SmallLinear {
public:
    // `weight` is [num_outputs][num_inputs], bfloat16 or float32, and must outlive the object.
    SmallLinear(const void* weight, int num_outputs, int num_inputs, bool is_bf16, std::shared_ptr<Workers> workers,
                const std::string& isa)
        : weight_(weight), num_outputs_(num_outputs), num_inputs_(num_inputs), is_bf16_(is_bf16),
          workers_(std::move(workers)), kernels_(*pick_kernels(isa).small) {}

    // x is [num_rows][num_inputs] of the weight's type, out [num_rows][num_outputs] of that type or float.
    void run(const void* x, void* out, int num_rows, bool out_is_float) {
        thread_local std::vector<float> widened;
        widened.resize(size_t(num_rows) * num_inputs_);
        const SmallCall call = {num_rows, num_inputs_, weight_, x, widened.data(), out, out_is_float, num_outputs_};
        (is_bf16_ ? kernels_.widen_bf16 : kernels_.widen_f32)(call);
        const auto multiply = is_bf16_ ? kernels_.multiply_bf16 : kernels_.multiply_f32;
        const int num_tasks = (num_outputs_ + kOutputsPerTask - 1) / kOutputsPerTask;
        const double operations = 2.0 * num_outputs_ * num_inputs_ * (num_rows < 4 ? 4 : num_rows);
        workers_->run(num_tasks, threads_worth(operations, workers_->num_threads()), [&](int task, int) {
            const int begin = task * kOutputsPerTask;
            multiply(call, begin, std::min(begin + kOutputsPerTask, num_outputs_));
        });
    }

private:
    static constexpr int kOutputsPerTask = 64;

    const void* const weight_;
    const int num_outputs_;
    const int num_inputs_;
    const bool is_bf16_;
    const std::shared_ptr<Workers> workers_;
    const SmallKernels& kernels_;
};

}  // namespace trtdisagg
