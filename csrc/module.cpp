// trtdisagg._csrc: what Python sees. Checks what comes once by type and shape, releases the GIL, and leaves the work to
// the other files.
//
// What is called some hundred times a step takes addresses of contiguous rows: describing a tensor costs 5 us and more,
// its address a tenth of that.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "copy.h"
#include "matrix.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace trtdisagg;

namespace {

using Weights = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // of bfloat16 or float32
using Biases = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Triples = nb::ndarray<const int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

bool is_bf16(const Weights& m) {
    const nb::dlpack::dtype bf16 = {uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1};
    require(m.dtype() == bf16 || m.dtype() == nb::dtype<float>(), "neither bfloat16 nor float32");
    return m.dtype() == bf16;
}

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

void init_matrix(Matrix* self, const Weights& weight, const std::optional<Biases>& bias, std::shared_ptr<Workers> workers,
                 const std::string& isa) {
    require(!bias || bias->shape(0) == weight.shape(0), "a bias must have a value for each output");
    new (self) Matrix(weight.data(), is_bf16(weight) ? WeightType::bf16 : WeightType::f32,
                      bias ? bias->data() : nullptr, int(weight.shape(0)), int(weight.shape(1)), std::move(workers),
                      isa);
}

void run_matrix(const Matrix& self, uintptr_t x, uintptr_t out, int num_rows) {
    nb::gil_scoped_release released;
    self.run(static_cast<const float*>(at(x)), static_cast<float*>(at(out)), num_rows);
}

void read_row(const Matrix& self, int output, uintptr_t out) {
    require(output >= 0 && output < self.outputs(), "no such output");
    self.row(output, static_cast<float*>(at(out)));
}

void copy(uintptr_t dst, int64_t dst_bytes, uintptr_t src, int64_t src_bytes, const Triples& runs) {
    const Run* list = reinterpret_cast<const Run*>(runs.data());
    nb::gil_scoped_release released;
    const size_t count = runs.shape(0);
    copy_runs(static_cast<char*>(at(dst)), dst_bytes, static_cast<const char*>(at(src)), src_bytes, list, count);
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels& k : usable_kernels()) names.push_back(k.isa);
    return names;
}

}  // namespace

NB_MODULE(_csrc, m) {
    m.doc() = "Whole steps of a decoder over KV blocks, sampling and block copies, on a CPU.";

    m.def("isas", &isas, "Instruction sets that kernels can be picked for here, best first.");

    m.def("copy_runs", &copy, "dst_address"_a, "dst_bytes"_a, "src_address"_a, "src_bytes"_a, "runs"_a,
          "Copy runs of bytes; `runs` is int64 [n, 3] of (dst_offset, src_offset, length). IndexError, and nothing is "
          "copied, when one lies outside the given sizes.");

    nb::class_<Workers>(m, "Workers", "Threads that sleep until there is work; `num_threads` counts the caller's.")
        .def(nb::init<int>(), "num_threads"_a)
        .def_prop_ro("num_threads", &Workers::num_threads)
        .def_prop_ro("num_ticks", &Workers::num_ticks, "Grows several times in whatever they compute.");

    bind_sampler(m);

    nb::class_<Matrix>(m, "Matrix", "A weight [outputs, inputs] to multiply any number of rows with.")
        .def("__init__", &init_matrix, "weight"_a, "bias"_a.none(), "workers"_a, "isa"_a = "", nb::keep_alive<1, 2>(),
             nb::keep_alive<1, 3>(), "Takes `weight` over: its memory is rearranged in place, nobody else may use it.")
        .def("run", &run_matrix, "x_address"_a, "out_address"_a, "num_rows"_a,
             "out [rows, outputs] = x [rows, inputs] weight^T + bias, in float32.")
        .def("row", &read_row, "output"_a, "out_address"_a, "float32 [inputs]: the weight's row as it came.");

    bind_decoder(m);
}
