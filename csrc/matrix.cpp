#include "matrix.h"

#include <algorithm>
#include <vector>

namespace trtdisagg {

namespace {

// Panels in one task: enough for the task to be worth handing out.
constexpr int kPanelsAtMost = 4;
// Rows in one task: what a task reads of x stays in the second nearest cache with the weights.
constexpr int kRowsAtMost = 96;
// Rows that are quantized or rounded in one task.
constexpr int kRowsPrepared = 16;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

Matrix::Matrix(void* weight, WeightType type, float* scales, int group, const float* bias, int num_outputs,
               int num_inputs, std::shared_ptr<Workers> workers, const std::string& isa)
    : weight_(weight, type, scales, group, num_outputs, num_inputs), type_(type), group_(group), bias_(bias),
      num_outputs_(num_outputs), num_inputs_(num_inputs), workers_(std::move(workers)),
      kernels_(*pick_kernels(isa).linear) {}

int Matrix::num_row_parts(int num_rows) const { return ceil_div(num_rows, kRowsAtMost); }

// As many for each thread, so that all end at the same time.
int Matrix::num_panel_parts(int num_rows) const {
    const int threads = num_rows > kRowsAtMost ? 1 : workers_->num_threads();
    return std::min(num_panels(), threads * ceil_div(num_panels(), threads * kPanelsAtMost));
}

LinearPart Matrix::part(int task, int num_rows) const {
    const int64_t panel_parts = num_panel_parts(num_rows), row_parts = num_row_parts(num_rows);
    const int64_t panel = task % panel_parts, row = task / panel_parts;
    return {int(num_panels() * panel / panel_parts), int(num_panels() * (panel + 1) / panel_parts),
            int(num_rows * row / row_parts), int(num_rows * (row + 1) / row_parts)};
}

void Matrix::quantize(LinearCall& call, int num_rows, int num_threads) const {
    thread_local std::vector<int16_t> values;
    thread_local std::vector<float> scales;
    values.resize(size_t(num_rows) * num_inputs_);
    scales.resize(size_t(num_rows) * (num_inputs_ / group_));
    call.q = {values.data(), scales.data()};
    prepare(kernels_.quantize, call, num_rows, num_threads);
}

void Matrix::round(LinearCall& call, int num_rows, int num_threads) const {
    thread_local std::vector<uint16_t> rounded;
    rounded.resize(size_t(num_rows) * (num_inputs_ + num_inputs_ % 2));
    call.rounded = rounded.data();
    prepare(kernels_.round, call, num_rows, num_threads);
}

void Matrix::prepare(Prepare kernel, const LinearCall& call, int num_rows, int num_threads) const {
    const int threads = num_rows > kRowsPrepared ? num_threads : 1;
    workers_->run(ceil_div(num_rows, kRowsPrepared), threads, [&](int task, int) {
        kernel(call, task * kRowsPrepared, std::min(num_rows, (task + 1) * kRowsPrepared));
    });
}

Matrix::Multiply Matrix::multiply_of(bool is_rounded) const {
    if (is_rounded) return kernels_.multiply_pairs;
    return type_ == WeightType::bf16  ? kernels_.multiply_bf16
           : type_ == WeightType::f32 ? kernels_.multiply_f32
                                      : kernels_.multiply_int8;
}

void Matrix::run(const float* x, float* out, int num_rows) const {
    const double operations = 2.0 * num_outputs_ * num_inputs_ * std::max(num_rows, 4);
    const int threads = threads_worth(operations, workers_->num_threads());
    LinearCall call = {weight_.panels(), bias_, num_outputs_, num_inputs_, group_, x, {}, nullptr, out};
    if (type_ == WeightType::int8) quantize(call, num_rows, threads);
    const bool is_rounded = type_ == WeightType::bf16 && kernels_.has_pairs && num_rows > kRowsUnrounded;
    if (is_rounded) round(call, num_rows, threads);
    const Multiply multiply = multiply_of(is_rounded);
    workers_->run(num_panel_parts(num_rows) * num_row_parts(num_rows), threads,
                  [&](int task, int) { multiply(call, part(task, num_rows)); });
}

}  // namespace trtdisagg
