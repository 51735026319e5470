#include "matrix.h"

#include <algorithm>
#include <cstring>

namespace trtdisagg {

namespace {

// Panels in one task: enough for the task to be worth handing out.
constexpr int kPanelsAtMost = 4;
// Rows in one task: what a task reads of x stays in the second nearest cache with the weights.
constexpr int kRowsAtMost = 96;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

int bytes_of(WeightType type) { return type == WeightType::bf16 ? 2 : 4; }

int inputs_per_step(WeightType type) { return type == WeightType::bf16 ? 2 : 1; }

// Where in its panel the value of one output and one input lies.
int64_t place(int output, int input, int num_inputs, int per_step) {
    const int step = input / per_step, full = num_inputs / per_step;
    if (step == full) return int64_t(full) * per_step * kPanel + output;
    return (int64_t(step) * kPanel + output) * per_step + input % per_step;
}

template <typename T>
void pack(const T* rows, T* panel, int num_outputs, int num_inputs, int per_step) {
    for (int output = 0; output < num_outputs; ++output)
        for (int input = 0; input < num_inputs; ++input)
            panel[place(output, input, num_inputs, per_step)] = rows[int64_t(output) * num_inputs + input];
}

// Rearranges all full panels in place; what does not fill one goes to `last`.
template <typename T>
void pack_all(T* weight, int num_outputs, int num_inputs, int per_step, std::vector<char>& last) {
    const int64_t size = int64_t(num_inputs) * kPanel;
    std::vector<T> panel(size);
    int output = 0;
    for (; output + kPanel <= num_outputs; output += kPanel) {
        T* rows = weight + int64_t(output) * num_inputs;
        pack(rows, panel.data(), kPanel, num_inputs, per_step);
        std::memcpy(rows, panel.data(), size * sizeof(T));
    }
    if (output == num_outputs) return;
    last.resize(size * sizeof(T));
    pack(weight + int64_t(output) * num_inputs, reinterpret_cast<T*>(last.data()), num_outputs - output, num_inputs,
         per_step);
}

float to_float(uint16_t bf16) {
    const uint32_t bits = uint32_t(bf16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace

Matrix::Matrix(void* weight, WeightType type, const float* bias, int num_outputs, int num_inputs,
               std::shared_ptr<Workers> workers, const std::string& isa)
    : weight_(static_cast<char*>(weight)), type_(type), bias_(bias), num_outputs_(num_outputs),
      num_inputs_(num_inputs), workers_(std::move(workers)), kernels_(*pick_kernels(isa).linear) {
    if (type == WeightType::bf16)
        pack_all(static_cast<uint16_t*>(weight), num_outputs, num_inputs, inputs_per_step(type), last_);
    else
        pack_all(static_cast<float*>(weight), num_outputs, num_inputs, inputs_per_step(type), last_);
}

int Matrix::num_row_parts(int num_rows) const { return ceil_div(num_rows, kRowsAtMost); }

// As many for each thread, so that all end at the same time.
int Matrix::num_panel_parts(int num_rows) const {
    const int threads = num_rows > kRowsAtMost ? 1 : workers_->num_threads();
    return std::min(num_panels(), threads * ceil_div(num_panels(), threads * kPanelsAtMost));
}

int Matrix::num_tasks(int num_rows) const { return num_panel_parts(num_rows) * num_row_parts(num_rows); }

void Matrix::run(const float* x, float* out, int num_rows) const {
    const double operations = 2.0 * num_outputs_ * num_inputs_ * std::max(num_rows, 4);
    workers_->run(num_tasks(num_rows), threads_worth(operations, workers_->num_threads()),
                  [&](int task, int) { run_task(x, out, num_rows, task); });
}

void Matrix::run_task(const float* x, float* out, int num_rows, int task) const {
    const LinearCall call = {weight_, last_.data(), bias_, num_outputs_, num_inputs_, x, out};
    const int64_t panel_parts = num_panel_parts(num_rows), row_parts = num_row_parts(num_rows);
    const int64_t panel = task % panel_parts, row = task / panel_parts;
    const LinearPart part = {int(num_panels() * panel / panel_parts), int(num_panels() * (panel + 1) / panel_parts),
                             int(num_rows * row / row_parts), int(num_rows * (row + 1) / row_parts)};
    (type_ == WeightType::bf16 ? kernels_.multiply_bf16 : kernels_.multiply_f32)(call, part);
}

void Matrix::row(int output, float* out) const {
    const int panel = output / kPanel, per_step = inputs_per_step(type_);
    const int64_t size = int64_t(num_inputs_) * kPanel * bytes_of(type_);
    const bool is_full = (panel + 1) * kPanel <= num_outputs_;
    const char* from = is_full ? weight_ + panel * size : last_.data();
    for (int input = 0; input < num_inputs_; ++input) {
        const int64_t at = place(output % kPanel, input, num_inputs_, per_step);
        out[input] = type_ == WeightType::bf16 ? to_float(reinterpret_cast<const uint16_t*>(from)[at])
                                               : reinterpret_cast<const float*>(from)[at];
    }
}

}  // namespace trtdisagg
