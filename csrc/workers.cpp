#include "workers.h"

#include <chrono>

namespace trtdisagg {

namespace {

constexpr std::chrono::microseconds kAwake{50};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Look out for `is_time` for as long as a thread stays awake.
template <typename Condition>
void look_out(const Condition& is_time) {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    while (!is_time() && std::chrono::steady_clock::now() < until)
        for (int i = 0; i < 16 && !is_time(); ++i) pause();
}

}  // namespace

Workers::Workers(int num_threads) {
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
    if (num_threads <= 1) {
        for (int task = 0; task < num_tasks; ++task) body(task, 0);
        return;
    }
    std::lock_guard one_run(one_run_);
    {
        std::lock_guard lock(mutex_);
        body_ = &body;
        num_tasks_ = num_tasks;
        num_wanted_ = num_threads - 1;
        next_ = 0;
        ++run_;
    }
    start_.notify_all();
    work(0, body);
    {
        std::lock_guard lock(mutex_);
        body_ = nullptr;  // a thread that wakes only now finds nothing to do, and nobody waits for it
    }
    const auto all_done = [this] { return num_busy_ == 0; };
    look_out(all_done);
    std::unique_lock lock(mutex_);
    done_.wait(lock, all_done);
}

void Workers::loop(int thread) {
    uint64_t last_run = 0;
    const auto is_time = [&] { return closing_ || run_ != last_run; };
    for (;;) {
        look_out(is_time);
        std::unique_lock lock(mutex_);
        start_.wait(lock, is_time);
        if (closing_) return;
        last_run = run_;
        if (body_ == nullptr || thread > num_wanted_) continue;
        const Body& body = *body_;
        ++num_busy_;
        lock.unlock();
        work(thread, body);
        lock.lock();
        if (--num_busy_ == 0) done_.notify_one();
    }
}

void Workers::work(int thread, const Body& body) {
    for (int task = next_++; task < num_tasks_; task = next_++) body(task, thread);
}

}  // namespace trtdisagg
