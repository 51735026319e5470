#include "sim/server.h"

#include <algorithm>
#include <cmath>

namespace trtdisagg::sim {

namespace {

constexpr double never = __builtin_inf();

// Each with all tokens before it, and with itself.
double num_pairs_of(int64_t start, int64_t num) {
    return static_cast<double>(num) * (static_cast<double>(start) + static_cast<double>(num + 1) / 2);
}

}  // namespace

// --- what comes ------------------------------------------------------------------------------------------------------

void Server::add(Request& request, double now) {
    waiting_.push_back(&request);
    come(now);
}

void Server::fetched(Request& request, double now) {
    request.has_kv_elsewhere = false;
    num_fetching_--;
    joining_.push_back(&request);
    come(now);
}

void Server::released(Request& request, double now) {
    num_taken_ -= slack() + request.num_prompt;
    come(now);
}

// The loop sees what came when its step is over; a run of steps is cut short there.
void Server::come(double now) {
    if (!is_stepping_) {
        schedule(now);
    } else if (num_steps_ > 1) {
        int64_t num = steps_until(now - since_);
        if (num >= num_steps_) return;
        num_steps_ = num;
        until_ = since_ + run_s(num);
        version++;
    }
}

void Server::advance(double now) {
    is_stepping_ = false;
    busy_s += now - since_;
    finish_generating(now);
    finish_prompts(now);
    schedule(now);
}

// --- a step ----------------------------------------------------------------------------------------------------------

void Server::schedule(double now) {
    for (Request* request : joining_) {
        num_attended_ += request->num_known;
        behind_.push_back(request);
        generate(*request);
    }
    joining_.clear();
    make_room(now);
    admit(now);
    int64_t budget = limits_.max_num_tokens - static_cast<int64_t>(generating_.size());
    int64_t num_prompt_tokens = 0;
    double num_pairs = 0;
    shares_.clear();
    for (Request* request : context_) {
        int64_t num = std::min(request->num_known - request->num_computed, budget - num_prompt_tokens);
        if (!num) break;
        shares_.emplace_back(request, num);
        num_prompt_tokens += num;
        num_pairs += num_pairs_of(request->num_computed, num);
    }
    begin(now, num_prompt_tokens, num_pairs);
}

void Server::begin(double now, int64_t num_prompt_tokens, double num_pairs) {
    int64_t num = static_cast<int64_t>(generating_.size());
    version++;
    until_ = never;
    if (!num && !num_prompt_tokens) return;
    is_stepping_ = true;
    since_ = now;
    first_s_ = cost_.step(num, num_attended_, num_prompt_tokens, num_pairs);
    more_s_ = cost_.kv_s * static_cast<double>(num);
    num_steps_ = 1;
    if (!num_prompt_tokens) {
        num_steps_ = generating_.front()->last_tick - tick_;
        if (!limits_.reserves) num_steps_ = std::min(num_steps_, (limits_.num_kv_tokens - num_taken_) / num + 1);
    }
    until_ = now + run_s(num_steps_);
}

void Server::finish_generating(double now) {
    int64_t num = static_cast<int64_t>(generating_.size()), num_behind = static_cast<int64_t>(behind_.size());
    if (!num) return;
    for (Request* request : behind_) gaps_.add(since_ + first_s_ - request->last, 1);
    behind_.clear();
    gaps_.add_run(first_s_, 0, 1, num - num_behind);
    gaps_.add_run(first_s_ + more_s_, more_s_, num_steps_ - 1, num);
    tick_ += num_steps_;
    num_attended_ += num_steps_ * num;
    if (!limits_.reserves) num_taken_ += num_steps_ * num;
    while (!generating_.empty() && generating_.front()->last_tick == tick_) {
        Request& request = *generating_.front();
        std::pop_heap(generating_.begin(), generating_.end(), EndsLater());
        generating_.pop_back();
        end(request, now);
    }
}

void Server::finish_prompts(double now) {
    for (auto [request, num] : shares_) {
        request->num_computed += num;
        if (request->num_computed < request->num_known) continue;
        context_.pop_front();
        if (request->first < 0) {
            request->first = now;
        } else {
            gaps_.add(now - request->last, 1);
        }
        request->last = now;
        if (hands_over_ && request->num_output > 1) {  // what it has taken stays until it is released
            listener_.prompt_done(*request, now);
            continue;
        }
        if (!limits_.reserves) num_taken_++;
        request->num_known++;
        num_attended_ += request->num_known;
        if (request->num_known == request->num_prompt + request->num_output) {
            end(*request, now);
        } else {
            generate(*request);
        }
    }
    shares_.clear();
}

void Server::end(Request& request, double now) {
    request.num_known = request.num_prompt + request.num_output;
    num_attended_ -= request.num_known;
    num_taken_ -= num_taken(request);
    request.end = request.last = now;
    listener_.ended(request, now);
}

// --- who is in it ----------------------------------------------------------------------------------------------------

void Server::admit(double now) {
    while (!waiting_.empty() && num_active() < limits_.max_active && has_room(*waiting_.front())) {
        Request& request = *waiting_.front();
        waiting_.pop_front();
        num_taken_ += num_taken(request);
        if (request.has_kv_elsewhere) {
            num_fetching_++;
            listener_.fetch(request, now);
        } else {
            request.num_computed = 0;
            context_.push_back(&request);
        }
    }
}

bool Server::has_room(const Request& request) const {
    int64_t num_running = num_active() - num_fetching_;
    int64_t num_spare = limits_.reserves ? 0 : num_running * limits_.tokens_per_block;
    return num_taken_ + num_taken(request) + num_spare <= limits_.num_kv_tokens;
}

int64_t Server::num_taken(const Request& request) const {
    bool is_whole = limits_.reserves && !hands_over_;
    return slack() + (is_whole ? request.num_prompt + request.num_output : request.num_known);
}

void Server::generate(Request& request) {
    request.last_tick = tick_ + request.num_prompt + request.num_output - request.num_known;
    generating_.push_back(&request);
    std::push_heap(generating_.begin(), generating_.end(), EndsLater());
}

// Whoever generates has room for its next token: the youngest goes until that is so.
void Server::make_room(double now) {
    while (!generating_.empty() && num_taken_ > limits_.num_kv_tokens) {
        auto younger = [](const Request* a, const Request* b) { return a->number < b->number; };
        auto found = std::max_element(generating_.begin(), generating_.end(), younger);
        if (!context_.empty() && context_.back()->number > (*found)->number) {
            Request& request = *context_.back();
            context_.pop_back();
            preempt(request);
            continue;
        }
        Request& request = **found;
        generating_.erase(found);
        std::make_heap(generating_.begin(), generating_.end(), EndsLater());
        request.num_known = request.num_prompt + request.num_output - (request.last_tick - tick_);
        num_attended_ -= request.num_known;
        auto place = std::find(behind_.begin(), behind_.end(), &request);
        if (place == behind_.end()) request.last = now;
        else behind_.erase(place);
        preempt(request);
    }
}

void Server::preempt(Request& request) {
    num_taken_ -= num_taken(request);
    request.num_computed = 0;
    waiting_.push_front(&request);
    num_preemptions++;
}

// --- a run of steps --------------------------------------------------------------------------------------------------

double Server::run_s(int64_t num_steps) const {
    double n = static_cast<double>(num_steps);
    return n * first_s_ + more_s_ * n * (n - 1) / 2;
}

// The first step that ends no sooner.
int64_t Server::steps_until(double seconds) const {
    double half = more_s_ / 2, linear = first_s_ - half;
    double n = more_s_ > 0 ? (std::sqrt(linear * linear + 4 * half * seconds) - linear) / (2 * half) : seconds / first_s_;
    int64_t num = std::max<int64_t>(1, static_cast<int64_t>(n));
    while (num > 1 && run_s(num - 1) >= seconds) num--;
    while (run_s(num) < seconds) num++;
    return num;
}

}  // namespace trtdisagg::sim
