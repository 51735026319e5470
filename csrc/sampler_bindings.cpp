// What Python sees of the sampler. engine/sampling/native.py checks shapes before it passes addresses.

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trtdisagg {

namespace {

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Logprobs logprobs_at(uintptr_t chosen, uintptr_t top_ids, uintptr_t top, uintptr_t num_top) {
    return {at<double>(chosen), at<int32_t>(top_ids), at<double>(top), at<int32_t>(num_top)};
}

void sample(Sampler& self, uintptr_t logits, int vocab, uintptr_t rows, int num_rows, uintptr_t tokens,
            uintptr_t chosen, uintptr_t top_ids, uintptr_t top, uintptr_t num_top, int max_top) {
    nb::gil_scoped_release released;
    self.sample(at<float>(logits), vocab, at<SampleRow>(rows), num_rows, at<int32_t>(tokens),
                logprobs_at(chosen, top_ids, top, num_top), max_top);
}

void logprobs(Sampler& self, uintptr_t logits, int vocab, uintptr_t tokens, int num_rows, uintptr_t chosen,
              uintptr_t top_ids, uintptr_t top, uintptr_t num_found, int num_top) {
    nb::gil_scoped_release released;
    self.logprobs(at<float>(logits), vocab, at<int32_t>(tokens), num_rows,
                  logprobs_at(chosen, top_ids, top, num_found), num_top);
}

}  // namespace

void bind_sampler(nb::module_& m) {
    nb::class_<Sampler>(m, "Sampler", "Tokens for all rows of a step.")
        .def(nb::init<std::shared_ptr<Workers>, const std::string&>(), "workers"_a, "isa"_a = "")
        .def_prop_ro_static("row_bytes", [](nb::handle) { return sizeof(SampleRow); })
        .def("sample", &sample, "logits_address"_a, "vocab"_a, "rows_address"_a, "num_rows"_a, "tokens_address"_a,
             "chosen_address"_a, "top_ids_address"_a, "top_address"_a, "num_top_address"_a, "max_top"_a,
             "Choose a token for each row of float logits [rows, vocab], -1 where there is none.")
        .def("logprobs", &logprobs, "logits_address"_a, "vocab"_a, "tokens_address"_a, "num_rows"_a,
             "chosen_address"_a, "top_ids_address"_a, "top_address"_a, "num_found_address"_a, "num_top"_a,
             "Log probabilities of one token a row, and of the most probable ones.");
}

}  // namespace trtdisagg
