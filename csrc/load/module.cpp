// trtdisagg._load: what Python sees of the scripted workers and the load client. Both run without the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "load/client.h"
#include "load/worker.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace trtdisagg::load;

namespace {

std::string as_string(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

void heed_signals() {
    nb::gil_scoped_acquire acquired;
    if (PyErr_CheckSignals()) throw nb::python_error();
}

Outcome load(int port, const std::vector<nb::bytes>& requests, int num_connections, int64_t num_requests, double spread_s,
             double timeout_s) {
    Plan plan{port, {}, num_connections, num_requests, spread_s, timeout_s};
    for (const nb::bytes& request : requests) plan.requests.push_back(as_string(request));
    nb::gil_scoped_release released;
    return run_load(plan, heed_signals);
}

}  // namespace

NB_MODULE(_load, m) {
    m.doc() = "Scripted servers and a load client that are faster than any proxy between them.";

    nb::class_<Script>(m, "Script", "What a worker answers; all answers are HTTP, with their heads.")
        .def(nb::init<>())
        .def("add_page", [](Script& s, const std::string& path, nb::bytes answer) { s.pages[path] = as_string(answer); },
             "path"_a, "answer"_a, "Answer whatever comes to a path.")
        .def("add_answer",
             [](Script& s, size_t min_bytes, nb::bytes whole, nb::bytes streamed) {
                 s.answers.push_back({min_bytes, as_string(whole), as_string(streamed)});
             },
             "min_bytes"_a, "whole"_a, "streamed"_a = nb::bytes(""),
             "Answer bodies of at least `min_bytes`, longer ones later; without `streamed` the events are the answer to "
             "a request for a stream.")
        .def("set_events",
             [](Script& s, nb::bytes head, nb::bytes before, nb::bytes between, nb::bytes after, nb::bytes last,
                int num_chars_before, int chars_per_event) {
                 s.events = {as_string(head),  as_string(before), as_string(between), as_string(after),
                             num_chars_before, chars_per_event,   as_string(last)};
             },
             "head"_a, "before"_a, "between"_a, "after"_a = nb::bytes(""), "last"_a, "num_chars_before"_a = 0,
             "chars_per_event"_a = 0,
             "The events of a stream. A request says in its seed how many and how fast: tokens * 10**9 + microseconds "
             "between them. See worker.h for the form of events.");

    nb::class_<Worker>(m, "Worker", "A scripted server on a thread of its own, from its making to `close`.")
        .def(nb::init<Script>(), "script"_a)
        .def_prop_ro("port", &Worker::port)
        .def_prop_ro("num_requests", &Worker::num_requests, "Answered so far, without pages.");

    nb::class_<Outcome>(m, "Outcome")
        .def_ro("num_ok", &Outcome::num_ok)
        .def_ro("num_failed", &Outcome::num_failed)
        .def_ro("failure", &Outcome::failure, "The first one; empty: there was none.")
        .def_ro("seconds", &Outcome::seconds)
        .def_ro("latencies_us", &Outcome::latencies_us, "Of each answer, from the request to its last byte.")
        .def_ro("delays_us", &Outcome::delays_us, "Of each event, from worker to client.");

    m.def("run_load", &load, "port"_a, "requests"_a, nb::kw_only(), "num_connections"_a, "num_requests"_a,
          "spread_s"_a = 0.0, "timeout_s"_a,
          "Send requests to a port of 127.0.0.1 in turn, each connection one after the other. RuntimeError when not all "
          "are answered in time.");
}
