// A few threads that sleep until there is work.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace trtdisagg {

// Runs numbered tasks on up to `num_threads` threads, the caller's included. One `run` at a time; a second caller waits
// for the first.
//
// A step is some hundred runs with a few microseconds between them, while to wake a sleeping thread takes ten and more.
// So a thread looks out for the next run for kAwake before it sleeps on a condition variable: it stays awake through a
// step and does not spin while the server is idle.
class Workers {
public:
    using Body = std::function<void(int task, int thread)>;

    explicit Workers(int num_threads);
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int num_threads() const { return int(threads_.size()) + 1; }

    // Call body(task, thread) for each task in [0, num_tasks), thread in [0, num_threads), and return when all are
    // done. Tasks are handed out in order to whoever is free. The body must not throw.
    void run(int num_tasks, int num_threads, const Body& body);

private:
    void loop(int thread);
    void work(int thread, const Body& body);

    std::vector<std::thread> threads_;
    std::mutex one_run_;
    std::mutex mutex_;  // guards what follows; the atomics are also looked at without it, to see whether it is time
    std::condition_variable start_;
    std::condition_variable done_;
    const Body* body_ = nullptr;
    int num_tasks_ = 0;
    int num_wanted_ = 0;
    std::atomic<int> num_busy_{0};
    std::atomic<uint64_t> run_{0};
    std::atomic<bool> closing_{false};

    std::atomic<int> next_{0};
};

// How many threads some work is worth: each must have enough to make up for being called.
inline int threads_worth(double num_operations, int num_threads) {
    const double operations_per_thread = 1e6;
    const double worth = num_operations / operations_per_thread;
    return worth >= num_threads ? num_threads : worth < 1 ? 1 : int(worth);
}

}  // namespace trtdisagg
