#include "sim/cluster.h"

#include <algorithm>
#include <deque>
#include <queue>

namespace trtdisagg::sim {

namespace {

enum class Kind { arrive, enter, step, handed, fetched };

struct Event {
    double time;
    uint64_t number;  // of the same time the first to be foreseen comes first
    Kind kind;
    int64_t index;
    uint64_t version;
    bool operator>(const Event& other) const {
        return time != other.time ? time > other.time : number > other.number;
    }
};

// What the proxy knows of servers of a role.
class Router {
  public:
    Router(int num_servers, bool is_balanced)
        : num_requests(num_servers), num_tokens(num_servers), is_balanced_(is_balanced) {}

    // One of those that are eligible; -1: none is.
    template <typename Eligible>
    int pick(Eligible eligible) {
        int num = static_cast<int>(num_requests.size()), best = -1;
        for (int i = 0; i < num; i++) {
            int server = turn_ + i < num ? turn_ + i : turn_ + i - num;
            if (!eligible(server)) continue;
            if (best >= 0 && num_requests[server] >= num_requests[best]) continue;
            best = server;
            if (!is_balanced_ || !num_requests[server]) break;
        }
        if (best >= 0) turn_ = best + 1 == num ? 0 : best + 1;
        return best;
    }

    std::vector<int64_t> num_requests, num_tokens;  // in flight

  private:
    const bool is_balanced_;
    int turn_ = 0;
};

class Simulation : public Listener {
  public:
    Simulation(const Cluster& cluster, const Load& load)
        : cluster_(cluster), load_(load), context_router_(cluster.context.num_servers, cluster.context.is_balanced),
          generation_router_(cluster.generation.num_servers, cluster.generation.is_balanced) {
        for (const Group* group : {&cluster.context, &cluster.generation})
            for (int i = 0; i < group->num_servers; i++)
                servers_.emplace_back(group->cost, group->limits, group == &cluster.context, *this, gaps_);
        fetching_until_.resize(cluster.generation.num_servers);
        versions_.resize(servers_.size());
        requests_.resize(load.num_prompt.size());
        for (size_t i = 0; i < requests_.size(); i++) {
            requests_[i].num_prompt = requests_[i].num_known = load.num_prompt[i];
            requests_[i].num_output = load.num_output[i];
            requests_[i].number = static_cast<int64_t>(i);
        }
    }

    Outcome run(const std::function<void()>& heed) {
        ask_first();
        for (uint64_t num = 0; !events_.empty(); num++) {
            Event event = events_.top();
            events_.pop();
            if (num % 65536 == 0) heed();
            handle(event);
        }
        return outcome();
    }

  private:
    void handle(const Event& event) {
        double now = event.time;
        switch (event.kind) {
            case Kind::arrive: {
                Request& request = requests_[event.index];
                request.arrived = now;
                if (load_.concurrency == 0) ask_next(now);
                line_.push_back(&request);
                serve_line(now);
                break;
            }
            case Kind::enter: {
                Request& request = requests_[event.index];
                int first = has_context() ? request.context : generation_index(request);
                touch(first, [&](Server& server) { server.add(request, now); });
                break;
            }
            case Kind::step:
                if (event.version == servers_[event.index].version)
                    touch(static_cast<int>(event.index), [&](Server& server) { server.advance(now); });
                break;
            case Kind::handed: {
                Request& request = requests_[event.index];
                touch(generation_index(request), [&](Server& server) { server.add(request, now); });
                break;
            }
            case Kind::fetched: {
                Request& request = requests_[event.index];
                touch(request.context, [&](Server& server) { server.released(request, now); });
                touch(generation_index(request), [&](Server& server) { server.fetched(request, now); });
                break;
            }
        }
    }

    // --- the proxy and the clients --------------------------------------------------------------------------------

    void ask_first() {
        if (load_.concurrency == 0) ask_next(0);
        for (int64_t i = 0; i < load_.concurrency; i++) ask_next(0);
    }

    void ask_next(double now) {
        if (num_asked_ == requests_.size()) return;
        push(load_.concurrency ? now : load_.arrivals[num_asked_], Kind::arrive, static_cast<int64_t>(num_asked_));
        num_asked_++;
    }

    void serve_line(double now) {
        while (!line_.empty()) {
            Request& request = *line_.front();
            request.generation = generation_router_.pick([&](int server) { return has_room(server, request); });
            if (request.generation < 0) return;
            line_.pop_front();
            count(generation_router_, request.generation, request, 1);
            if (has_context()) {
                request.context = context_router_.pick([](int) { return true; });
                count(context_router_, request.context, request, 1);
            }
            push(now + cluster_.request_s, Kind::enter, request.number);
        }
    }

    bool has_room(int server, const Request& request) const {
        int64_t num_requests = generation_router_.num_requests[server];
        if (!num_requests) return true;
        const Limits& limits = cluster_.generation.limits;
        double num_tokens = static_cast<double>(generation_router_.num_tokens[server] + num_tokens_of(request));
        return static_cast<double>(num_requests) < cluster_.room_batches * static_cast<double>(limits.max_active) &&
               num_tokens <= cluster_.room_kv * static_cast<double>(limits.num_kv_tokens);
    }

    static int64_t num_tokens_of(const Request& request) { return request.num_prompt + request.num_output; }

    static void count(Router& router, int server, const Request& request, int sign) {
        router.num_requests[server] += sign;
        router.num_tokens[server] += sign * num_tokens_of(request);
    }

    // --- what servers tell ----------------------------------------------------------------------------------------

    void prompt_done(Request& request, double now) override {
        count(context_router_, request.context, request, -1);
        request.num_known++;
        request.has_kv_elsewhere = true;
        push(now + cluster_.handover_s, Kind::handed, request.number);
    }

    void fetch(Request& request, double now) override {
        double& until = fetching_until_[request.generation];
        until = std::max(until, now) + cluster_.fetch_token_s * static_cast<double>(request.num_prompt);
        push(until + cluster_.fetch_s, Kind::fetched, request.number);
    }

    void ended(Request& request, double now) override {
        if (has_context() && request.num_output == 1) count(context_router_, request.context, request, -1);
        count(generation_router_, request.generation, request, -1);
        if (load_.concurrency) ask_next(now);
        serve_line(now);
    }

    // --- events ---------------------------------------------------------------------------------------------------

    bool has_context() const { return cluster_.context.num_servers > 0; }
    int generation_index(const Request& request) const { return cluster_.context.num_servers + request.generation; }

    template <typename Change>
    void touch(int index, Change change) {
        Server& server = servers_[index];
        change(server);
        if (versions_[index] == server.version) return;
        versions_[index] = server.version;
        if (server.next_s() < __builtin_inf()) push(server.next_s(), Kind::step, index, server.version);
    }

    void push(double time, Kind kind, int64_t index, uint64_t version = 0) {
        events_.push({time, num_events_++, kind, index, version});
    }

    Outcome outcome() const {
        Outcome found;
        for (const Request& request : requests_) {
            found.arrived.push_back(request.arrived);
            found.first.push_back(request.first);
            found.end.push_back(request.end);
        }
        found.gaps = gaps_.counts();
        for (size_t i = 0; i < servers_.size(); i++) {
            bool is_context = i < static_cast<size_t>(cluster_.context.num_servers);
            (is_context ? found.context_busy_s : found.generation_busy_s) += servers_[i].busy_s;
            found.num_preemptions += servers_[i].num_preemptions;
        }
        return found;
    }

    const Cluster& cluster_;
    const Load& load_;
    Gaps gaps_;
    Router context_router_, generation_router_;
    std::deque<Server> servers_;
    std::vector<uint64_t> versions_;      // of the step events that are foreseen
    std::vector<double> fetching_until_;  // of each generation server's link
    std::vector<Request> requests_;
    std::deque<Request*> line_;
    std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
    uint64_t num_events_ = 0;
    size_t num_asked_ = 0;
};

}  // namespace

Outcome simulate(const Cluster& cluster, const Load& load, const std::function<void()>& heed) {
    return Simulation(cluster, load).run(heed);
}

}  // namespace trtdisagg::sim
