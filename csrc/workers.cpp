#include "workers.h"

namespace trtdisagg {

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
    std::unique_lock lock(mutex_);
    body_ = nullptr;  // a thread that wakes only now finds nothing to do, and nobody waits for it
    done_.wait(lock, [this] { return num_busy_ == 0; });
}

void Workers::loop(int thread) {
    unsigned long long last_run = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
        start_.wait(lock, [&] { return closing_ || run_ != last_run; });
        if (closing_) return;
        last_run = run_;
        if (body_ == nullptr || thread > num_wanted_) continue;
        ++num_busy_;
        const Body& body = *body_;
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
