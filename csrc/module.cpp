// trtdisagg._csrc: what Python sees. Checks what comes once by type and shape, releases the GIL, and leaves the work to
// the other files.
//
// What is called some hundred times a step takes addresses of contiguous rows: describing a tensor costs 5 us and more,
// its address a tenth of that.

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "copy.h"
#include "kernels.h"
#include "workers.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace trtdisagg;

namespace {

using Triples = nb::ndarray<const int64_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

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

    bind_ceilings(m);
    bind_sampler(m);
    bind_matrix(m);
    bind_decoder(m);
    bind_shared_ranks(m);
}
