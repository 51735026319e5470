// What Python sees of the machine's limits.

#include <nanobind/nanobind.h>

#include "bindings.h"
#include "ceilings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trtdisagg {

namespace {

uint32_t read_all(uintptr_t address, size_t num_bytes, Workers& workers) {
    nb::gil_scoped_release released;
    return read_memory(reinterpret_cast<const char*>(address), num_bytes, workers);
}

double compute_all(int64_t num_rounds, Workers& workers) {
    nb::gil_scoped_release released;
    return multiply_add(num_rounds, workers);
}

}  // namespace

void bind_ceilings(nb::module_& m) {
    m.def("read_memory", &read_all, "address"_a, "num_bytes"_a, "workers"_a,
          "Read everything once with all threads, as fast as can be; the exclusive or of all of its words.");
    m.def("multiply_add", &compute_all, "num_rounds"_a, "workers"_a,
          "Let all threads multiply and add floats in registers; the number of operations that were done.");
}

}  // namespace trtdisagg
