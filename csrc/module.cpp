// trtdisagg._csrc: what Python sees. Checks what comes once by type and shape, releases the GIL, and leaves the work to
// the other files.
//
// What is called some hundred times a step takes addresses of contiguous rows: describing a tensor costs 5 us and more,
// its address a tenth of that. engine/attention.py, linear.py and rowwise.py check shapes before they pass them.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "copy.h"
#include "matrix.h"
#include "paged_attention.h"
#include "rowwise_ops.h"
#include "small_linear.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace trtdisagg;

namespace {

using Weights = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // of bfloat16 or float32
using Biases = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Triples = nb::ndarray<const int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

bool is_bf16(const Weights& m) {
    const nb::dlpack::dtype bf16 = {uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1};
    require(m.dtype() == bf16 || m.dtype() == nb::dtype<float>(), "neither bfloat16 nor float32");
    return m.dtype() == bf16;
}

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

void init_attention(PagedAttention* self, uintptr_t pool_address, int num_blocks, int num_layers, int num_heads,
                    int num_kv_heads, int head_dim, int tokens_per_block, bool pool_is_bf16, const Floats& cosines,
                    const Floats& sines, float scale, std::shared_ptr<Workers> workers, const std::string& isa) {
    const size_t half = head_dim / 2;
    require(cosines.shape(1) == half && sines.shape(1) == half && cosines.shape(0) == sines.shape(0),
            "cosines and sines must be [max_positions, head_dim / 2]");
    AttentionShape shape = {};
    shape.num_blocks = num_blocks;
    shape.num_layers = num_layers;
    shape.num_heads = num_heads;
    shape.num_kv_heads = num_kv_heads;
    shape.head_dim = head_dim;
    shape.tokens_per_block = tokens_per_block;
    shape.max_positions = int(cosines.shape(0));
    shape.pool_is_bf16 = pool_is_bf16;
    shape.scale = scale;
    new (self) PagedAttention(shape, static_cast<char*>(at(pool_address)), cosines.data(), sines.data(),
                              std::move(workers), isa);
}

void begin_attention(PagedAttention& self, const Triples& chunks, const Indices& blocks) {
    std::vector<Chunk> list;
    for (size_t i = 0; i < chunks.shape(0); ++i)
        list.push_back({int(chunks(i, 0)), int(chunks(i, 1)), chunks(i, 2)});
    self.begin(list, std::vector<int32_t>(blocks.data(), blocks.data() + blocks.shape(0)));
}

void run_attention(PagedAttention& self, int layer, uintptr_t qkv, uintptr_t out, int num_rows, bool is_bf16) {
    require(num_rows == self.num_rows(), "not the rows of the step that was begun");
    nb::gil_scoped_release released;
    self.run(layer, at(qkv), at(out), is_bf16);
}

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

void init_linear(SmallLinear* self, const Weights& weight, std::shared_ptr<Workers> workers, const std::string& isa) {
    new (self) SmallLinear(weight.data(), int(weight.shape(0)), int(weight.shape(1)), is_bf16(weight),
                           std::move(workers), isa);
}

void run_linear(SmallLinear& self, uintptr_t x, uintptr_t out, int num_rows, bool out_is_float) {
    nb::gil_scoped_release released;
    self.run(at(x), at(out), num_rows, out_is_float);
}

void run_norm(RowwiseOps& self, uintptr_t x, uintptr_t delta, uintptr_t weight, uintptr_t out, int num_rows, int width,
              float eps) {
    nb::gil_scoped_release released;
    self.norm({width, eps, at(x), at(delta), at(weight), at(out)}, num_rows);
}

void run_gate(RowwiseOps& self, uintptr_t gate_up, uintptr_t out, int num_rows, int width) {
    nb::gil_scoped_release released;
    self.gate({width, at(gate_up), at(out)}, num_rows);
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
    m.doc() = "Attention over KV blocks, small-batch linear layers, sampling and block copies on a CPU.";

    m.def("isas", &isas, "Instruction sets that kernels can be picked for here, best first.");

    m.def("copy_runs", &copy, "dst_address"_a, "dst_bytes"_a, "src_address"_a, "src_bytes"_a, "runs"_a,
          "Copy runs of bytes; `runs` is int64 [n, 3] of (dst_offset, src_offset, length). IndexError, and nothing is "
          "copied, when one lies outside the given sizes.");

    nb::class_<Workers>(m, "Workers", "Threads that sleep until there is work; `num_threads` counts the caller's.")
        .def(nb::init<int>(), "num_threads"_a)
        .def_prop_ro("num_threads", &Workers::num_threads)
        .def_prop_ro("num_ticks", &Workers::num_ticks, "Grows several times in whatever they compute.");

    bind_sampler(m);

    nb::class_<PagedAttention>(m, "PagedAttention", "Rotary attention over a block pool that is bound once.")
        .def("__init__", &init_attention, "pool_address"_a, nb::kw_only(), "num_blocks"_a, "num_layers"_a,
             "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "tokens_per_block"_a, "pool_is_bf16"_a, "cosines"_a,
             "sines"_a, "scale"_a, "workers"_a, "isa"_a = "", nb::keep_alive<1, 10>(), nb::keep_alive<1, 11>())
        .def("begin", &begin_attention, "chunks"_a, "blocks"_a,
             "Set the step: `chunks` is int64 [n, 3] of (num_tokens, position, first index in blocks), `blocks` int32.")
        .def("run", &run_attention, "layer"_a, "qkv_address"_a, "out_address"_a, "num_rows"_a, "is_bf16"_a,
             "One layer: qkv [rows, (num_heads + 2 num_kv_heads) head_dim] to out [rows, num_heads head_dim].");

    nb::class_<Matrix>(m, "Matrix", "A weight [outputs, inputs] to multiply any number of rows with.")
        .def("__init__", &init_matrix, "weight"_a, "bias"_a.none(), "workers"_a, "isa"_a = "", nb::keep_alive<1, 2>(),
             nb::keep_alive<1, 3>(), "Takes `weight` over: its memory is rearranged in place, nobody else may use it.")
        .def("run", &run_matrix, "x_address"_a, "out_address"_a, "num_rows"_a,
             "out [rows, outputs] = x [rows, inputs] weight^T + bias, in float32.")
        .def("row", &read_row, "output"_a, "out_address"_a, "float32 [inputs]: the weight's row as it came.");

    nb::class_<SmallLinear>(m, "SmallLinear", "A weight [outputs, inputs] to multiply a few rows with.")
        .def("__init__", &init_linear, "weight"_a, "workers"_a, "isa"_a = "", nb::keep_alive<1, 2>())
        .def("run", &run_linear, "x_address"_a, "out_address"_a, "num_rows"_a, "out_is_float"_a = false,
             "out [rows, outputs] = x [rows, inputs] weight^T, all of the weight's type, or out of float.");

    nb::class_<RowwiseOps>(m, "RowwiseOps", "Normalization and gated activation of rows of one type.")
        .def(nb::init<bool, std::shared_ptr<Workers>, const std::string&>(), "is_bf16"_a, "workers"_a, "isa"_a = "")
        .def("norm", &run_norm, "x_address"_a, "delta_address"_a, "weight_address"_a, "out_address"_a, "num_rows"_a,
             "width"_a, "eps"_a, "x += delta (unless that is 0), then out = x / root mean square of its row * weight.")
        .def("gate", &run_gate, "gate_up_address"_a, "out_address"_a, "num_rows"_a, "width"_a,
             "out [rows, width] = silu(gate) * up of gate_up [rows, 2 width].");
}
