// The row-wise kernels with their rows shared out among threads.

#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "kernels.h"
#include "workers.h"

namespace trtdisagg {

class RowwiseOps {
public:
    RowwiseOps(bool is_bf16, std::shared_ptr<Workers> workers, const std::string& isa)
        : is_bf16_(is_bf16), workers_(std::move(workers)), kernels_(*pick_kernels(isa).rowwise) {}

    void norm(const NormCall& call, int num_rows) {
        share(num_rows, 8.0 * call.width, [&](int begin, int end) {
            (is_bf16_ ? kernels_.norm_bf16 : kernels_.norm_f32)(call, begin, end);
        });
    }

    void gate(const GateCall& call, int num_rows) {
        share(num_rows, 32.0 * call.width, [&](int begin, int end) {
            (is_bf16_ ? kernels_.gate_bf16 : kernels_.gate_f32)(call, begin, end);
        });
    }

private:
    template <typename Body>
    void share(int num_rows, double operations_per_row, const Body& body) {
        constexpr int kRowsPerTask = 16;
        const int num_tasks = (num_rows + kRowsPerTask - 1) / kRowsPerTask;
        const int threads = threads_worth(num_rows * operations_per_row, workers_->num_threads());
        workers_->run(num_tasks, threads, [&](int task, int) {
            const int begin = task * kRowsPerTask;
            body(begin, std::min(begin + kRowsPerTask, num_rows));
        });
    }

    const bool is_bf16_;
    const std::shared_ptr<Workers> workers_;
    const RowwiseKernels& kernels_;
};

}  // namespace trtdisagg
