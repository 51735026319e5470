#include "load/worker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <queue>
#include <unordered_map>

#include "load/http.h"

namespace trtdisagg::load {

namespace {

constexpr uint64_t kListener = 0, kStop = 1, kTimer = 2, kFirstConnection = 3;
constexpr int kNumEvents = 256;
constexpr int64_t kPacePerToken = 1'000'000'000;
constexpr char kNoPage[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

// The events that one connection is sent.
struct Stream {
    int64_t due_ns, interval_ns, num_left, num_chars;
};

struct Connection {
    Socket socket;
    std::string received;
    Stream stream{};
};

struct Due {
    int64_t at_ns;
    uint64_t connection;
    bool operator>(const Due& other) const { return at_ns > other.at_ns; }
};

// Tokens, and ns between them.
std::pair<int64_t, int64_t> asked_for(std::string_view body) {
    const std::string_view seed = json_behind(body, "\"seed\"");
    int64_t number = 0;
    std::from_chars(seed.data(), seed.data() + seed.size(), number);
    return {number / kPacePerToken, number % kPacePerToken * 1000};
}

}  // namespace

class Worker::Loop {
  public:
    Loop(Worker& worker, Script script) : worker_(worker), script_(std::move(script)) {
        poll_.add(worker.listener_.get(), kListener);
        poll_.add(worker.stop_.get(), kStop);
        poll_.add(timer_.get(), kTimer);
    }

    void run() {
        epoll_event events[kNumEvents];
        while (true) {
            const int count = epoll_wait(poll_.get(), events, kNumEvents, -1);
            for (int i = 0; i < count; ++i) {
                if (events[i].data.u64 == kStop) return;
                take(events[i]);
            }
            send_due();
        }
    }

  private:
    void take(const epoll_event& event) {
        const uint64_t number = event.data.u64;
        if (number == kListener) return accept_all();
        if (number == kTimer) {
            uint64_t count;
            if (read(timer_.get(), &count, sizeof count) > 0) set_for_ns_ = 0;
            return;
        }
        const auto it = connections_.find(number);
        if (it == connections_.end()) return;
        const bool lives = (!(event.events & EPOLLOUT) || it->second.socket.flush()) && hear(number, it->second);
        if (!lives) connections_.erase(number);
    }

    void accept_all() {
        while (true) {
            Descriptor fd(accept4(worker_.listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (fd.get() < 0) return;
            const uint64_t number = next_++;
            connections_.try_emplace(number, Connection{Socket(std::move(fd), poll_, number), {}});
        }
    }

    bool hear(uint64_t number, Connection& connection) {
        std::string& received = connection.received;
        if (!connection.socket.receive(received)) return false;
        Head head;
        while (parse_head(received, head)) {
            const size_t body_bytes = head.content_length < 0 ? 0 : size_t(head.content_length);
            if (received.size() < head.num_bytes + body_bytes) return true;
            const std::string_view body = std::string_view(received).substr(head.num_bytes, body_bytes);
            if (!answer(number, connection, head.first_line, body)) return false;
            received.erase(0, head.num_bytes + body_bytes);
        }
        return true;
    }

    bool answer(uint64_t number, Connection& connection, std::string_view first_line, std::string_view body) {
        const size_t from = first_line.find(' ') + 1;
        const std::string path(first_line.substr(from, first_line.find_first_of(" ?", from) - from));
        if (const auto page = script_.pages.find(path); page != script_.pages.end())
            return connection.socket.send(page->second);
        const Answer* fitting = nullptr;
        for (const Answer& candidate : script_.answers)
            if (body.size() >= candidate.min_bytes) fitting = &candidate;
        if (!fitting || body.empty()) return connection.socket.send(kNoPage);
        ++worker_.num_requests_;
        if (!json_is_true(body, "\"stream\"")) return connection.socket.send(fitting->whole);
        if (!fitting->streamed.empty()) return connection.socket.send(fitting->streamed);
        return begin(number, connection, body);
    }

    bool begin(uint64_t number, Connection& connection, std::string_view body) {
        const auto [num_tokens, interval_ns] = asked_for(body);
        if (num_tokens < 1) return false;
        connection.stream = {now_ns() + interval_ns, interval_ns, num_tokens, script_.events.num_chars_before};
        due_.push({connection.stream.due_ns, number});
        return connection.socket.send(script_.events.head);
    }

    void send_due() {
        while (!due_.empty() && due_.top().at_ns <= now_ns()) {
            const uint64_t number = due_.top().connection;
            due_.pop();
            const auto it = connections_.find(number);
            if (it == connections_.end()) continue;
            Stream& stream = it->second.stream;
            if (!send_next(it->second.socket, stream)) {
                connections_.erase(it);
            } else if (stream.num_left) {
                stream.due_ns += stream.interval_ns;
                due_.push({stream.due_ns, number});
            }
        }
        if (!due_.empty() && (!set_for_ns_ || due_.top().at_ns < set_for_ns_)) set_timer(due_.top().at_ns);
    }

    bool send_next(Socket& socket, Stream& stream) {
        const Events& events = script_.events;
        char stamp[18];
        std::snprintf(stamp, sizeof stamp, "~%016llx", static_cast<unsigned long long>(now_ns()));
        event_.assign(events.before).append(stamp, 17).append(events.between);
        if (events.chars_per_event) {
            stream.num_chars += events.chars_per_event;
            event_.append(std::to_string(stream.num_chars)).append(events.after);
        }
        frame_.clear();
        add_chunk(event_);
        if (!--stream.num_left) {
            add_chunk(events.last);
            frame_.append("0\r\n\r\n");
        }
        return socket.send(frame_);
    }

    void add_chunk(std::string_view data) {
        char size[16];
        const auto end = std::to_chars(size, size + sizeof size, data.size(), 16).ptr;
        frame_.append(size, size_t(end - size)).append("\r\n").append(data).append("\r\n");
    }

    void set_timer(int64_t at_ns) {
        set_for_ns_ = at_ns;
        const itimerspec when{{0, 0}, {at_ns / 1'000'000'000, at_ns % 1'000'000'000}};
        timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
    }

    Worker& worker_;
    Script script_;
    Poll poll_;
    Descriptor timer_{timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    int64_t set_for_ns_ = 0;  // 0: it is not set
    std::unordered_map<uint64_t, Connection> connections_;
    uint64_t next_ = kFirstConnection;
    std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
    std::string event_, frame_;
};

Worker::Worker(Script script)
    : listener_(listen_on_loopback()), stop_(eventfd(0, EFD_CLOEXEC)), port_(port_of(listener_.get())) {
    auto loop = std::make_unique<Loop>(*this, std::move(script));
    thread_ = std::thread([loop = std::move(loop)] { loop->run(); });
}

Worker::~Worker() {
    const uint64_t one = 1;
    if (write(stop_.get(), &one, sizeof one) == sizeof one) thread_.join();
}

}  // namespace trtdisagg::load
