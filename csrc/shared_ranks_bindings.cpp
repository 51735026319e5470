// SharedRanks as Python sees them: addresses of contiguous tensors, and no GIL while others are waited for.

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "shared_ranks.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trtdisagg {

namespace {

char* at(uintptr_t address) { return reinterpret_cast<char*>(address); }

void add_up(SharedRanks& ranks, uintptr_t address, size_t count, bool is_bf16) {
    if (is_bf16)
        ranks.add_up_bf16(reinterpret_cast<uint16_t*>(at(address)), count);
    else
        ranks.add_up(reinterpret_cast<float*>(at(address)), count);
}

}  // namespace

void bind_shared_ranks(nb::module_& m) {
    using Released = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<SharedRanks>(m, "SharedRanks",
                            "The ranks of a server on one host, through memory that all have mapped. RuntimeError when "
                            "another rank has ended, or was waited for in vain.")
        .def(nb::init<int, int, int, int, double>(), "fd"_a, "num_ranks"_a, "tp_size"_a, "rank"_a, "timeout_s"_a)
        .def_static("num_bytes", &SharedRanks::num_bytes, "num_ranks"_a)
        .def("add_up", &add_up, "address"_a, "count"_a, "is_bf16"_a, Released())
        .def("gather",
             [](SharedRanks& ranks, uintptr_t own, uintptr_t all, const std::vector<size_t>& bytes) {
                 ranks.gather(at(own), at(all), bytes);
             },
             "own"_a, "all"_a, "bytes"_a, Released())
        .def("send", [](SharedRanks& ranks, uintptr_t data, size_t size) { ranks.send(at(data), size); }, "data"_a,
             "size"_a, Released())
        .def("receive",
             [](SharedRanks& ranks, int from, uintptr_t data, size_t size) { ranks.receive(from, at(data), size); },
             "source"_a, "data"_a, "size"_a, Released())
        .def("end", &SharedRanks::end);
}

}  // namespace trtdisagg
