#include "load/client.h"

#include <sys/epoll.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <stdexcept>

#include "load/http.h"
#include "load/sockets.h"

namespace trtdisagg::load {

namespace {

constexpr int kNumEvents = 256;
constexpr int64_t kTickNs = 100'000'000;
constexpr char kMark = '~';
constexpr size_t kStampBytes = 17;
constexpr std::string_view kEndMark = "[DONE]";
constexpr size_t kTailBytes = 32;  // where the end mark is looked for

// One answer, as its bytes come.
class AnswerReader {
  public:
    // False: it is not a good one, for the reason in `failure`.
    bool feed(std::string& received, std::vector<double>& delays_us) {
        if (!head_) {
            Head head;
            if (!parse_head(received, head)) return true;
            if (head.first_line.find(" 200") == std::string_view::npos) return fail("answered " + received.substr(0, 400));
            if (head.content_length < 0 && !head.is_chunked) return fail("an answer without a length");
            head_ = head;
            received.erase(0, head.num_bytes);
        }
        if (!head_->is_chunked) {
            num_bytes_ += received.size();
            received.clear();
            return num_bytes_ <= size_t(head_->content_length) || fail("an answer longer than it says");
        }
        if (!chunks_.feed(received, body_)) return fail("an answer with wrong chunks");
        received.clear();
        read_stamps(delays_us);
        return !is_complete() || body_.find(kEndMark) != std::string::npos || fail("a stream without its end mark");
    }

    bool is_complete() const {
        return head_ && (head_->is_chunked ? chunks_.is_complete() : num_bytes_ == size_t(head_->content_length));
    }
    bool is_last() const { return head_->is_last; }
    const std::string& failure() const { return failure_; }

  private:
    bool fail(std::string why) {
        failure_ = std::move(why);
        return false;
    }

    void read_stamps(std::vector<double>& delays_us) {
        const int64_t now = now_ns();
        size_t at = 0;
        while ((at = body_.find(kMark, at)) != std::string::npos && body_.size() - at >= kStampBytes) {
            int64_t sent = 0;
            std::from_chars(body_.data() + at + 1, body_.data() + at + kStampBytes, sent, 16);
            delays_us.push_back(double(now - sent) / 1000);
            at += kStampBytes;
        }
        body_.erase(0, at == std::string::npos ? body_.size() - std::min(body_.size(), kTailBytes) : at);
    }

    std::optional<Head> head_;
    Chunks chunks_;
    size_t num_bytes_ = 0;
    std::string body_;
    std::string failure_;
};

struct Connection {
    std::unique_ptr<Socket> socket;
    std::string received;
    AnswerReader answer;
    int64_t begun_ns = 0;
    bool is_busy = false;
};

class Client {
  public:
    Client(const Plan& plan, const std::function<void()>& tick)
        : plan_(plan), tick_(tick), connections_(size_t(plan.num_connections)) {}

    Outcome run() {
        started_ns_ = now_ns();
        const int64_t deadline_ns = started_ns_ + int64_t(plan_.timeout_s * 1e9);
        int64_t next_tick_ns = started_ns_ + kTickNs;
        while (num_done() < plan_.num_requests) {
            const int64_t now = now_ns();
            begin_due(now);
            if (now >= next_tick_ns) {
                tick_();
                next_tick_ns = now + kTickNs;
            }
            if (now >= deadline_ns)
                throw std::runtime_error(std::to_string(num_done()) + " of " + std::to_string(plan_.num_requests) +
                                         " requests were answered in time");
            take(wait_ms(now));
        }
        outcome_.seconds = double(now_ns() - started_ns_) / 1e9;
        return std::move(outcome_);
    }

  private:
    int64_t num_done() const { return outcome_.num_ok + outcome_.num_failed; }

    // The connections begin one after the other, so that their tokens do not come all at once.
    void begin_due(int64_t now) {
        while (num_begun_ < connections_.size() && now >= starts_ns(num_begun_)) ask(num_begun_++);
    }

    int64_t starts_ns(size_t index) const {
        return started_ns_ + int64_t(plan_.spread_s * 1e9 * double(index) / double(connections_.size()));
    }

    int wait_ms(int64_t now) const {
        const int64_t tick_ms = kTickNs / 1'000'000;
        if (num_begun_ == connections_.size()) return int(tick_ms);
        return int(std::min((starts_ns(num_begun_) - now) / 1'000'000, tick_ms));
    }

    void ask(size_t index) {
        if (num_asked_ == plan_.num_requests) return;
        Connection& connection = connections_[index];
        connection.answer = AnswerReader();
        connection.begun_ns = now_ns();
        connection.is_busy = true;
        if (!connection.socket)
            connection.socket = std::make_unique<Socket>(connect_to_loopback(plan_.port), poll_, index);
        if (!connection.socket->send(plan_.requests[size_t(num_asked_++) % plan_.requests.size()]))
            end(index, "the connection broke");
    }

    void take(int timeout_ms) {
        epoll_event events[kNumEvents];
        const int count = epoll_wait(poll_.get(), events, kNumEvents, timeout_ms);
        for (int i = 0; i < count; ++i) take(events[i].data.u64, events[i].events);
    }

    void take(size_t index, uint32_t what) {
        Connection& connection = connections_[index];
        if (!connection.socket) return;
        if ((what & EPOLLOUT) && !connection.socket->flush()) return end(index, "the connection broke");
        const bool is_open = connection.socket->receive(connection.received);
        if (!connection.is_busy) {
            connection.socket.reset();
            return;
        }
        if (!connection.answer.feed(connection.received, outcome_.delays_us)) return end(index, connection.answer.failure());
        if (connection.answer.is_complete())
            end(index, {});
        else if (!is_open)
            end(index, "the connection was closed before the end of the answer");
    }

    void end(size_t index, std::string failure) {
        Connection& connection = connections_[index];
        connection.is_busy = false;
        const bool failed = !failure.empty();
        if (!failed) {
            ++outcome_.num_ok;
            outcome_.latencies_us.push_back(double(now_ns() - connection.begun_ns) / 1000);
        } else if (!outcome_.num_failed++) {
            outcome_.failure = std::move(failure);
        }
        if (failed || connection.answer.is_last()) connection.socket.reset();
        connection.received.clear();
        ask(index);
    }

    const Plan& plan_;
    const std::function<void()>& tick_;
    Poll poll_;
    std::vector<Connection> connections_;
    size_t num_begun_ = 0;
    int64_t num_asked_ = 0;
    int64_t started_ns_ = 0;
    Outcome outcome_;
};

}  // namespace

Outcome run_load(const Plan& plan, const std::function<void()>& tick) {
    if (plan.requests.empty() || plan.num_connections < 1) throw std::invalid_argument("nothing to send");
    return Client(plan, tick).run();
}

}  // namespace trtdisagg::load
