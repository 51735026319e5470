// A scripted server: answers as it was told to, as fast as it can, on a thread of its own that Python never sees.
//
//     request -> a page by its path, or
//                an answer by the length of its body, whole, or
//                events, as `"seed": 16000010000` says: 16, one every 10,000 us (all proxies pass a seed on)
//
// An event says when it was sent, so that whoever gets it knows how long it was on its way.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "load/sockets.h"

namespace trtdisagg::load {

// HTTP answers, with their heads.
struct Answer {
    size_t min_bytes;      // of the body of the request; the last answer counts for which it is long enough
    std::string whole;     // where no stream is asked for
    std::string streamed;  // where one is; empty: the events
};

// An event is before + '~' + 16 hexadecimal digits of its time in ns + between [+ characters said so far + after].
struct Events {
    std::string head;
    std::string before, between, after;
    int num_chars_before = 0;  // said before the first event
    int chars_per_event = 0;   // 0: an event does not tell them, and ends with `between`
    std::string last;
};

struct Script {
    std::map<std::string, std::string> pages;  // path -> HTTP answer
    std::vector<Answer> answers;               // longer ones later
    Events events;
};

class Worker {
  public:
    explicit Worker(Script script);
    ~Worker();
    int port() const { return port_; }
    int64_t num_requests() const { return num_requests_; }

  private:
    class Loop;
    Descriptor listener_, stop_;
    int port_;
    std::atomic<int64_t> num_requests_{0};
    std::thread thread_;
};

}  // namespace trtdisagg::load
