// Connections of one epoll loop: what is still to be written is kept with them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trtdisagg::load {

int64_t now_ns();  // CLOCK_MONOTONIC, the same for all processes of a host

// A file descriptor that is closed with its owner.
class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor();
    int get() const { return fd_; }

  private:
    int fd_;
};

// An epoll set; each descriptor in it has a number that tells whose it is.
class Poll {
  public:
    Poll();
    void add(int fd, uint64_t number);
    void want_write(int fd, uint64_t number, bool wanted);
    int get() const { return epoll_.get(); }

  private:
    Descriptor epoll_;
};

// A connection that does not block.
class Socket {
  public:
    Socket(Descriptor fd, Poll& poll, uint64_t number);

    // What came is appended to `data`; false: the other side has closed, or the connection broke.
    bool receive(std::string& data);
    // False: the connection broke. What the kernel does not take is sent when it does (`flush`).
    bool send(std::string_view data);
    bool flush();

  private:
    Descriptor fd_;
    Poll& poll_;
    uint64_t number_;
    std::string unsent_;
};

// Sockets on 127.0.0.1 that do not block. std::system_error when there is none.
Descriptor listen_on_loopback();
Descriptor connect_to_loopback(int port);
int port_of(int fd);

}  // namespace trtdisagg::load
