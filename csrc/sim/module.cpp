// trtdisagg._sim: what Python sees of the simulation. It runs without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "sim/cluster.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace trtdisagg::sim;

namespace {

void heed_signals() {
    nb::gil_scoped_acquire acquired;
    if (PyErr_CheckSignals()) throw nb::python_error();
}

// Arrays cross as bytes: no headers of numpy are needed, and a million values are copied once.
template <typename T>
std::vector<T> read(const nb::bytes& bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), bytes.c_str(), values.size() * sizeof(T));
    return values;
}

template <typename T>
nb::bytes written(const std::vector<T>& values) {
    return nb::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

StepCost make_cost(const nb::bytes& decode_s, const nb::bytes& prefill_s, double kv_s, double pair_s, double shared_s) {
    return {read<double>(decode_s), read<double>(prefill_s), kv_s, pair_s, shared_s};
}

Outcome run(const Cluster& cluster, const nb::bytes& arrivals, int64_t concurrency, const nb::bytes& num_prompt,
            const nb::bytes& num_output) {
    Load load{read<double>(arrivals), concurrency, read<int64_t>(num_prompt), read<int64_t>(num_output)};
    nb::gil_scoped_release released;
    return simulate(cluster, load, heed_signals);
}

}  // namespace

NB_MODULE(_sim, m) {
    m.doc() = "A simulation of clusters, event by event. Arrays are bytes of float64 or int64. Times are in seconds.";

    nb::class_<StepCost>(m, "StepCost", "How long a step takes; see csrc/sim/cost.h.")
        .def("__init__",
             [](StepCost* cost, const nb::bytes& decode_s, const nb::bytes& prefill_s, double kv_s, double pair_s,
                double shared_s) { new (cost) StepCost(make_cost(decode_s, prefill_s, kv_s, pair_s, shared_s)); },
             nb::kw_only(), "decode_s"_a, "prefill_s"_a, "kv_s"_a, "pair_s"_a, "shared_s"_a)
        .def("step", &StepCost::step, nb::kw_only(), "num_sequences"_a, "num_kv_tokens"_a, "num_prompt_tokens"_a,
             "num_pairs"_a);

    nb::class_<Limits>(m, "Limits", "Of one server.")
        .def(nb::init<int64_t, int64_t, int64_t, int64_t, bool>(), nb::kw_only(), "max_active"_a, "max_num_tokens"_a,
             "num_kv_tokens"_a, "tokens_per_block"_a, "reserves"_a);

    nb::class_<Group>(m, "Group", "Servers that are alike.")
        .def(nb::init<StepCost, Limits, int, bool>(), nb::kw_only(), "cost"_a, "limits"_a, "num_servers"_a,
             "is_balanced"_a);

    nb::class_<Cluster>(m, "Cluster", "Without context servers the others do both.")
        .def(nb::init<Group, Group, double, double, double, double, double, double>(), nb::kw_only(), "context"_a,
             "generation"_a, "request_s"_a, "handover_s"_a, "fetch_s"_a, "fetch_token_s"_a, "room_batches"_a,
             "room_kv"_a);

    nb::class_<Outcome>(m, "Outcome")
        .def_prop_ro("arrived", [](const Outcome& o) { return written(o.arrived); })
        .def_prop_ro("first", [](const Outcome& o) { return written(o.first); }, "When the first token came.")
        .def_prop_ro("end", [](const Outcome& o) { return written(o.end); })
        .def_prop_ro("gaps", [](const Outcome& o) { return written(o.gaps); }, "How many, in each bin; see `GAP_*`.")
        .def_ro("num_preemptions", &Outcome::num_preemptions)
        .def_ro("context_busy_s", &Outcome::context_busy_s)
        .def_ro("generation_busy_s", &Outcome::generation_busy_s);

    m.attr("GAP_LEAST_S") = Gaps::least_s;
    m.attr("GAP_RATIO") = Gaps::ratio;

    m.def("simulate", &run, "cluster"_a, nb::kw_only(), "arrivals"_a, "concurrency"_a, "num_prompt"_a, "num_output"_a,
          "Until every request has ended. Without `arrivals`, `concurrency` clients ask one after the other.");
}
