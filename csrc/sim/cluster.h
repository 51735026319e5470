// A simulated cluster: the proxy, its context and generation servers (or servers that do both), and the clients.
//
//     arrive -> [line] -> context server -> first token, handed over -> generation server -> fetch -> end
//
// Whoever arrives is routed when a generation server has room for it, as the proxy does (proxy/routing/room.py), to one
// server of each role. A generation server fetches for one request after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "sim/server.h"

namespace trtdisagg::sim {

struct Group {
    StepCost cost;
    Limits limits;
    int num_servers = 0;
    bool is_balanced = false;  // load_balancing, or else round_robin
};

struct Cluster {
    Group context;     // no servers: those of `generation` do both
    Group generation;
    double request_s = 0;   // from the client to a server's queue
    double handover_s = 0;  // from the first token to the generation server's queue
    double fetch_s = 0;        // before any byte of a prompt's KV
    double fetch_token_s = 0;  // for each token of it
    double room_batches = 1.25;
    double room_kv = 1;
};

struct Load {
    std::vector<double> arrivals;  // in order; empty: `concurrency` clients ask one after the other
    int64_t concurrency = 0;
    std::vector<int64_t> num_prompt, num_output;
};

struct Outcome {
    std::vector<double> arrived, first, end;
    std::vector<int64_t> gaps;  // see gaps.h
    int64_t num_preemptions = 0;
    double context_busy_s = 0, generation_busy_s = 0;  // of all servers of a role together
};

// `heed` is called now and then, and may throw.
Outcome simulate(const Cluster& cluster, const Load& load, const std::function<void()>& heed);

}  // namespace trtdisagg::sim
