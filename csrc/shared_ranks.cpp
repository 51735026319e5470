#include "shared_ranks.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

namespace trtdisagg {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPiece = 1 << 20;  // few waits a tensor, and still from the cache that cores share
constexpr std::chrono::microseconds kAwake{20};
constexpr timespec kNap{0, 200'000'000};  // then whether all has ended is looked at again

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

inline float widened(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint16_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);  // not a number, and stays one
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

// What one rank counts and others wait for; on a cache line of its own.
struct alignas(64) SharedRanks::Count {
    std::atomic<uint32_t> value;
    std::atomic<uint32_t> num_asleep;
};

struct SharedRanks::Rank {
    Count laid_down, sent, taken;
    alignas(64) char stage[2][kPiece];
    alignas(64) char channel[2][kPiece];
};

struct SharedRanks::Memory {
    alignas(64) std::atomic<uint32_t> ended;
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "processes share them");

size_t SharedRanks::num_bytes(int num_ranks) { return sizeof(Memory) + sizeof(Rank) * size_t(num_ranks); }

SharedRanks::SharedRanks(int fd, int num_ranks, int tp_size, int rank, double timeout_s)
    : mapped_(num_bytes(num_ranks)), num_ranks_(num_ranks), tp_size_(tp_size), rank_(rank),
      first_(rank - rank % tp_size), timeout_s_(timeout_s) {
    void* at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) throw std::runtime_error(std::string("the ranks' memory cannot be mapped: ") + strerror(errno));
    memory_ = static_cast<Memory*>(at);
    ranks_ = reinterpret_cast<Rank*>(memory_ + 1);
}

SharedRanks::~SharedRanks() { munmap(memory_, mapped_); }

void SharedRanks::add_one(Count& count) {
    count.value.fetch_add(1);
    // Whoever goes to sleep counts itself first, and the kernel looks at the value again: one of the two sees the other.
    if (count.num_asleep.load() != 0) syscall(SYS_futex, &count.value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void SharedRanks::wait(Count& count, uint32_t at_least) {
    const auto reached = [&] { return int32_t(count.value.load(std::memory_order_acquire) - at_least) >= 0; };
    for (int i = 0; i < 64; ++i) {
        if (reached()) return;
        pause();
    }
    const auto began = Clock::now();
    while (!reached()) {
        if (memory_->ended.load(std::memory_order_relaxed)) throw std::runtime_error("another rank has ended");
        const auto waited = Clock::now() - began;
        if (waited < kAwake) {
            for (int i = 0; i < 64 && !reached(); ++i) pause();
            continue;
        }
        if (std::chrono::duration<double>(waited).count() > timeout_s_)
            throw std::runtime_error("another rank was waited for in vain");
        const uint32_t seen = count.value.load();
        if (int32_t(seen - at_least) >= 0) return;
        count.num_asleep.fetch_add(1);
        syscall(SYS_futex, &count.value, FUTEX_WAIT, seen, &kNap, nullptr, 0);
        count.num_asleep.fetch_sub(1);
    }
}

void SharedRanks::end() {
    memory_->ended.store(1);
    for (int r = 0; r < num_ranks_; ++r)
        for (Count* count : {&ranks_[r].laid_down, &ranks_[r].sent, &ranks_[r].taken})
            syscall(SYS_futex, &count->value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void SharedRanks::lay_down(const char* data, size_t size) {
    if (size != 0) std::memcpy(ranks_[rank_].stage[round_ % 2], data, size);
    add_one(ranks_[rank_].laid_down);
    ++round_;
    for (int t = 0; t < tp_size_; ++t) wait(ranks_[first_ + t].laid_down, round_);
}

const char* SharedRanks::laid_down(int tp_rank) const { return ranks_[first_ + tp_rank].stage[(round_ - 1) % 2]; }

template <typename Sum>
void SharedRanks::add_up_pieces(char* x, size_t size, const Sum& sum) {
    for (size_t start = 0; start < size; start += kPiece) {
        const size_t piece = std::min(kPiece, size - start);
        lay_down(x + start, piece);
        sum(x + start, piece);
    }
}

void SharedRanks::add_up(float* x, size_t count) {
    constexpr size_t kAtOnce = 2048;  // stays in the first cache while rank after rank is added
    add_up_pieces(reinterpret_cast<char*>(x), count * sizeof(float), [&](char* at, size_t size) {
        float* out = reinterpret_cast<float*>(at);
        for (size_t start = 0, n = size / sizeof(float); start < n; start += kAtOnce) {
            const size_t end = std::min(n, start + kAtOnce);
            const float* first = reinterpret_cast<const float*>(laid_down(0));
            std::memcpy(out + start, first + start, (end - start) * sizeof(float));
            for (int t = 1; t < tp_size_; ++t) {
                const float* other = reinterpret_cast<const float*>(laid_down(t));
                for (size_t i = start; i < end; ++i) out[i] += other[i];
            }
        }
    });
}

void SharedRanks::add_up_bf16(uint16_t* x, size_t count) {
    add_up_pieces(reinterpret_cast<char*>(x), count * sizeof(uint16_t), [&](char* at, size_t size) {
        uint16_t* out = reinterpret_cast<uint16_t*>(at);
        for (size_t i = 0; i < size / sizeof(uint16_t); ++i) {
            float sum = 0;
            for (int t = 0; t < tp_size_; ++t) sum += widened(reinterpret_cast<const uint16_t*>(laid_down(t))[i]);
            out[i] = rounded(sum);
        }
    });
}

void SharedRanks::gather(const char* own, char* all, const std::vector<size_t>& bytes) {
    const size_t mine = bytes[size_t(rank_ - first_)];
    const size_t longest = *std::max_element(bytes.begin(), bytes.end());
    for (size_t start = 0; start < longest; start += kPiece) {
        lay_down(own + start, start < mine ? std::min(kPiece, mine - start) : 0);
        char* to = all;
        for (int t = 0; t < tp_size_; to += bytes[size_t(t)], ++t)
            if (start < bytes[size_t(t)])
                std::memcpy(to + start, laid_down(t), std::min(kPiece, bytes[size_t(t)] - start));
    }
}

void SharedRanks::send(const char* data, size_t size) {
    Rank& mine = ranks_[rank_];
    for (size_t start = 0; start < size; start += kPiece) {
        const uint32_t number = mine.sent.value.load(std::memory_order_relaxed);
        wait(mine.taken, number - 1);
        std::memcpy(mine.channel[number % 2], data + start, std::min(kPiece, size - start));
        add_one(mine.sent);
    }
}

void SharedRanks::receive(int from, char* data, size_t size) {
    Rank& theirs = ranks_[from];
    for (size_t start = 0; start < size; start += kPiece) {
        const uint32_t number = theirs.taken.value.load(std::memory_order_relaxed);
        wait(theirs.sent, number + 1);
        std::memcpy(data + start, theirs.channel[number % 2], std::min(kPiece, size - start));
        add_one(theirs.taken);
    }
}

}  // namespace trtdisagg
