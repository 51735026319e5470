// What Python sees of matrices: checks what comes once by type and shape.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "matrix.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trtdisagg {

namespace {

using Weights = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Scales = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Biases = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

WeightType type_of(const Weights& m) {
    const nb::dlpack::dtype bf16 = {uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1};
    if (m.dtype() == nb::dtype<int8_t>()) return WeightType::int8;
    if (m.dtype() == bf16) return WeightType::bf16;
    require(m.dtype() == nb::dtype<float>(), "neither bfloat16, float32 nor int8");
    return WeightType::f32;
}

// How many inputs share a scale.
int group_of(const Weights& weight, const Scales& scales) {
    const size_t num_inputs = weight.shape(1), num_groups = scales.shape(1);
    require(scales.shape(0) == weight.shape(0) && num_groups > 0 && num_inputs % num_groups == 0,
            "scales must be [outputs, groups of inputs of one size]");
    const size_t group = num_inputs / num_groups;
    require(group % 4 == 0 && group <= kGroupAtMost, "inputs in a group must be a multiple of 4, 512 at most");
    return int(group);
}

void init(Matrix* self, const Weights& weight, const std::optional<Scales>& scales, const std::optional<Biases>& bias,
          std::shared_ptr<Workers> workers, const std::string& isa) {
    const WeightType type = type_of(weight);
    require((type == WeightType::int8) == scales.has_value(), "scales belong to int8, and int8 to scales");
    require(!bias || bias->shape(0) == weight.shape(0), "a bias must have a value for each output");
    new (self) Matrix(weight.data(), type, scales ? scales->data() : nullptr, scales ? group_of(weight, *scales) : 1,
                      bias ? bias->data() : nullptr, int(weight.shape(0)), int(weight.shape(1)), std::move(workers),
                      isa);
}

float* at(uintptr_t address) { return reinterpret_cast<float*>(address); }

void run(const Matrix& self, uintptr_t x, uintptr_t out, int num_rows) {
    nb::gil_scoped_release released;
    self.run(at(x), at(out), num_rows);
}

void read_row(const Matrix& self, int output, uintptr_t out) {
    require(output >= 0 && output < self.outputs(), "no such output");
    self.row(output, at(out));
}

}  // namespace

void bind_matrix(nb::module_& m) {
    nb::class_<Matrix>(m, "Matrix", "A weight [outputs, inputs] to multiply any number of rows with.")
        .def("__init__", &init, "weight"_a, "scales"_a.none(), "bias"_a.none(), "workers"_a, "isa"_a = "",
             nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(),
             "Takes weight and scales over: their memory is rearranged in place, nobody else may use it.")
        .def("run", &run, "x_address"_a, "out_address"_a, "num_rows"_a,
             "out [rows, outputs] = x [rows, inputs] weight^T + bias, in float32.")
        .def("row", &read_row, "output"_a, "out_address"_a, "float32 [inputs]: the weight's row as it came.");
}

}  // namespace trtdisagg
