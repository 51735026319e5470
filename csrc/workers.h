// A few threads that sleep until there is work.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace trtdisagg {

// What is called for each task: any function of (task, thread), which must outlive the call of `run`.
class Body {
public:
    template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, Body>>>
    Body(const F& f)
        : object_(&f), call_([](const void* o, int task, int thread) { (*static_cast<const F*>(o))(task, thread); }) {}

    void operator()(int task, int thread) const { call_(object_, task, thread); }

private:
    const void* object_;
    void (*call_)(const void*, int, int);
};

// Runs numbered tasks on up to `num_threads` threads, the caller's included. One `run` at a time; a second caller waits
// for the first.
//
// A step is some hundred runs with a few microseconds between them, while to wake a sleeping thread takes ten and more.
// So a thread looks out for the next run for a while before it sleeps on a condition variable: it stays awake through a
// step and does not spin while the server is idle, nor at all when there are more threads than cores.
//
// A run is published in one word, and threads enter and leave it by counting themselves in that word:
//
//     | number of the run | open | threads still wanted | threads inside |
//
// The caller closes it when no task is left and waits for those inside. So one that wakes too late finds it closed, and
// nobody waits for it.
class Workers {
public:
    explicit Workers(int num_threads);
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int num_threads() const { return int(threads_.size()) + 1; }

    // Call body(task, thread) for each task in [0, num_tasks), thread in [0, num_threads()), and return when all are
    // done. Tasks are handed out in order to whoever is free. The body must not throw.
    void run(int num_tasks, int num_threads, const Body& body);

    // Grows with each run and each task that a calling thread does in it: so others see that it gets on. Any thread may
    // ask.
    uint64_t num_ticks() const { return num_ticks_.load(std::memory_order_relaxed); }

private:
    void loop(int thread);
    bool enter(uint64_t run);
    void leave();
    bool await_run(uint64_t& run);
    void await_empty();
    void work(int thread, const Body& body, int num_tasks);
    void tick() { num_ticks_.store(num_ticks_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

    std::vector<std::thread> threads_;
    bool may_spin_ = false;
    std::mutex one_run_;

    // Written by the caller while nobody is inside.
    const Body* body_ = nullptr;
    int num_tasks_ = 0;

    alignas(64) std::atomic<uint64_t> word_{0};
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<uint64_t> num_ticks_{0};

    std::mutex mutex_;  // guards falling asleep
    std::condition_variable start_;
    std::condition_variable done_;
    std::atomic<int> num_asleep_{0};
    std::atomic<bool> caller_sleeps_{false};
    std::atomic<bool> closing_{false};
};

// How many threads some work is worth: each must have enough to make up for being called.
inline int threads_worth(double num_operations, int num_threads) {
    const double operations_per_thread = 1e5;
    const double worth = num_operations / operations_per_thread;
    return worth >= num_threads ? num_threads : worth < 1 ? 1 : int(worth);
}

}  // namespace trtdisagg
