// A load client: connections that each send a request, take the whole answer, and send the next.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace trtdisagg::load {

struct Plan {
    int port;                           // of 127.0.0.1
    std::vector<std::string> requests;  // HTTP requests, sent in turn
    int num_connections;
    int64_t num_requests;  // of all connections together
    double spread_s;       // the first requests of the connections are spread over this time
    double timeout_s;      // for all of it
};

struct Outcome {
    int64_t num_ok = 0, num_failed = 0;
    std::string failure;  // the first one
    double seconds = 0;
    std::vector<double> latencies_us;  // of each answer, from the request to its last byte
    std::vector<double> delays_us;     // of each stamped event (worker.h), from worker to here
};

// A stream without its end mark, a status other than 200 and a connection that breaks are failures.
// `tick` is called every tenth of a second. std::runtime_error when the time is over.
Outcome run_load(const Plan& plan, const std::function<void()>& tick);

}  // namespace trtdisagg::load
