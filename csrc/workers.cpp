#include "workers.h"

#include <sched.h>

#include <chrono>

namespace trtdisagg {

namespace {

constexpr std::chrono::microseconds kAwake{100};

constexpr uint64_t kInside = 0xffff;       // bits of the word: threads inside
constexpr uint64_t kOneWanted = 1 << 16;   // threads still wanted, 15 bits
constexpr uint64_t kWanted = 0x7fff0000;
constexpr uint64_t kOpen = uint64_t(1) << 31;
constexpr int kRunShift = 32;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Look out for `is_time` for as long as a thread stays awake.
template <typename Condition>
bool look_out(const Condition& is_time) {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    do {
        for (int i = 0; i < 64; ++i) {
            if (is_time()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    return is_time();
}

int num_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return int(std::thread::hardware_concurrency());
    return CPU_COUNT(&set);
}

}  // namespace

Workers::Workers(int num_threads) : may_spin_(num_threads <= num_cores()) {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { loop(i); });
}

Workers::~Workers() {
    {
        std::lock_guard lock(mutex_);
        closing_ = true;
    }
    start_.notify_all();
    for (auto& t : threads_) t.join();
}

void Workers::run(int num_tasks, int num_threads, const Body& body) {
    if (num_threads > num_tasks) num_threads = num_tasks;
    if (num_threads > this->num_threads()) num_threads = this->num_threads();
    std::lock_guard one_run(one_run_);
    next_.store(0, std::memory_order_relaxed);
    tick();
    if (num_threads <= 1) return work(0, body, num_tasks);
    body_ = &body;
    num_tasks_ = num_tasks;
    const uint64_t run = (word_.load(std::memory_order_relaxed) >> kRunShift) + 1;
    word_ = run << kRunShift | kOpen | uint64_t(num_threads - 1) * kOneWanted;
    if (num_asleep_ > 0) {
        { std::lock_guard lock(mutex_); }  // whoever is about to sleep has seen the run, or gets the signal
        start_.notify_all();
    }
    work(0, body, num_tasks);
    word_ &= ~kOpen;
    await_empty();
}

void Workers::loop(int thread) {
    for (uint64_t run = 0; await_run(run);) {
        if (!enter(run)) continue;
        work(thread, *body_, num_tasks_);
        leave();
    }
}

// Wait for another run than this one, and take its number.
// Returns false when the threads are to end.
bool Workers::await_run(uint64_t& run) {
    const auto is_time = [&] { return word_ >> kRunShift != run || closing_; };
    if (!may_spin_ || !look_out(is_time)) {
        std::unique_lock lock(mutex_);
        ++num_asleep_;
        start_.wait(lock, is_time);
        --num_asleep_;
    }
    run = word_ >> kRunShift;
    return !closing_;
}

bool Workers::enter(uint64_t run) {
    uint64_t word = word_;
    while (word >> kRunShift == run && (word & kOpen) && (word & kWanted))
        if (word_.compare_exchange_weak(word, word - kOneWanted + 1)) return true;
    return false;
}

void Workers::leave() {
    if ((--word_ & kInside) != 0 || !caller_sleeps_) return;
    { std::lock_guard lock(mutex_); }
    done_.notify_one();
}

void Workers::await_empty() {
    const auto is_empty = [this] { return (word_ & kInside) == 0; };
    if (is_empty() || (may_spin_ && look_out(is_empty))) return;
    std::unique_lock lock(mutex_);
    caller_sleeps_ = true;
    done_.wait(lock, is_empty);
    caller_sleeps_ = false;
}

void Workers::work(int thread, const Body& body, int num_tasks) {
    for (int task = next_++; task < num_tasks; task = next_++) {
        body(task, thread);
        if (thread == 0) tick();
    }
}

}  // namespace trtdisagg
