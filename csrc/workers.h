// A few threads that sleep until there is work.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace trtdisagg {

// Runs numbered tasks on up to `num_threads` threads, the caller's included. The threads wait on a condition variable
// and never spin, since servers share cores. One `run` at a time; a second caller waits for the first.
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
    std::mutex mutex_;
    std::condition_variable start_;
    std::condition_variable done_;
    const Body* body_ = nullptr;
    int num_tasks_ = 0;
    int num_wanted_ = 0;
    int num_busy_ = 0;
    unsigned long long run_ = 0;
    bool closing_ = false;
    std::atomic<int> next_{0};
};

// How many threads some work is worth: waking one costs some microseconds, so each gets at least as much as this.
inline int threads_worth(double num_operations, int num_threads) {
    const double operations_per_thread = 1e6;
    const double worth = num_operations / operations_per_thread;
    return worth >= num_threads ? num_threads : worth < 1 ? 1 : int(worth);
}

}  // namespace trtdisagg
