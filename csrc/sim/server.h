// One simulated server: the engine's scheduler (trtdisagg/engine/scheduler.py) without what it computes.
//
//     waiting -> open (its tokens have room) -> [fetching] -> context, in chunks -> generating -> end
//        ^                                                                               |
//        +------------------------------- preempted: the youngest ----------------------+
//
// A step takes a token of each sequence that generates, and of the oldest prompts what is left of its budget. Between
// two changes of the batch steps differ only by the KV that grows by a token a sequence: so as long as nobody comes or
// ends, any number of steps is one event, whose time is a sum in closed form. Somebody who comes cuts such a run short
// at the end of the step that is under way.
//
// KV is counted in tokens; a sequence takes half a block more for the block that it has begun.
#pragma once

#include <cstdint>
#include <deque>
#include <queue>
#include <vector>

#include "sim/cost.h"
#include "sim/gaps.h"

namespace trtdisagg::sim {

struct Request {
    double arrived = 0;
    double first = -1;  // token, at the client
    double last = -1;   // token, until now
    double end = -1;
    int64_t num_prompt = 0, num_output = 0;
    int64_t num_known = 0;     // tokens: of the prompt and those that came
    int64_t num_computed = 0;  // of them, while in context
    int64_t last_tick = 0;     // step of its server with which it ends
    int64_t number = 0;        // in the order of arrival
    int context = 0, generation = 0;  // its servers
    bool has_kv_elsewhere = false;
};

struct Limits {
    int64_t max_active = 0;      // sequences
    int64_t max_num_tokens = 0;  // in a step
    int64_t num_kv_tokens = 0;
    int64_t tokens_per_block = 1;
    bool reserves = false;  // guaranteed_no_evict
};

// What a server has to say, and to whom.
class Listener {
  public:
    virtual ~Listener() = default;
    virtual void prompt_done(Request& request, double now) = 0;  // its first token is there
    virtual void ended(Request& request, double now) = 0;
    virtual void fetch(Request& request, double now) = 0;  // calls `fetched` later
};

class Server {
  public:
    Server(const StepCost& cost, const Limits& limits, bool hands_over, Listener& listener, Gaps& gaps)
        : cost_(cost), limits_(limits), hands_over_(hands_over), listener_(listener), gaps_(gaps) {}

    void add(Request& request, double now);
    void fetched(Request& request, double now);
    void released(Request& request, double now);  // its blocks, after a handover

    double next_s() const { return until_; }  // when it has to be asked to go on; infinity: not until something comes
    void advance(double now);                 // `now` is next_s()

    int64_t num_preemptions = 0;
    double busy_s = 0;
    uint64_t version = 0;  // of next_s()

  private:
    void come(double now);
    void schedule(double now);
    void admit(double now);
    void make_room(double now);
    void preempt(Request& request);
    void begin(double now, int64_t num_prompt_tokens, double num_pairs);
    void finish_prompts(double now);
    void finish_generating(double now);
    void generate(Request& request);
    void end(Request& request, double now);
    bool has_room(const Request& request) const;
    int64_t slack() const { return limits_.tokens_per_block / 2; }
    int64_t num_taken(const Request& request) const;
    int64_t num_active() const { return num_fetching_ + static_cast<int64_t>(context_.size() + generating_.size()); }
    double run_s(int64_t num_steps) const;
    int64_t steps_until(double seconds) const;

    struct EndsLater {
        bool operator()(const Request* a, const Request* b) const {
            return a->last_tick != b->last_tick ? a->last_tick > b->last_tick : a->number > b->number;
        }
    };

    const StepCost& cost_;
    const Limits limits_;
    const bool hands_over_;
    Listener& listener_;
    Gaps& gaps_;

    std::deque<Request*> waiting_;  // the oldest first
    std::deque<Request*> context_;
    std::vector<Request*> joining_;     // fetched during the step under way
    std::vector<Request*> generating_;  // heap: who ends first on top
    std::vector<Request*> behind_;      // of those who generate: with a last token before that of the last step
    std::vector<std::pair<Request*, int64_t>> shares_;  // of the step's tokens
    int64_t num_fetching_ = 0;
    int64_t num_taken_ = 0;     // KV tokens
    int64_t num_attended_ = 0;  // by those who generate, in the next step
    int64_t tick_ = 0;          // steps with those who generate
    bool is_stepping_ = false;
    double since_ = 0, until_ = __builtin_inf();
    double first_s_ = 0, more_s_ = 0;  // of the steps under way
    int64_t num_steps_ = 0;
};

}  // namespace trtdisagg::sim
