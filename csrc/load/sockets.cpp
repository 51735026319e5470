#include "load/sockets.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace trtdisagg::load {

namespace {

constexpr int kBacklog = 4096;

int checked(int result, const char* what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
    return result;
}

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK; }

}  // namespace

int64_t now_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

Descriptor::~Descriptor() {
    if (fd_ >= 0) close(fd_);
}

Poll::Poll() : epoll_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

void Poll::add(int fd, uint64_t number) {
    epoll_event event{EPOLLIN, {.u64 = number}};
    checked(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void Poll::want_write(int fd, uint64_t number, bool wanted) {
    epoll_event event{uint32_t(EPOLLIN | (wanted ? EPOLLOUT : 0)), {.u64 = number}};
    checked(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event), "epoll_ctl");
}

Socket::Socket(Descriptor fd, Poll& poll, uint64_t number) : fd_(std::move(fd)), poll_(poll), number_(number) {
    const int yes = 1;
    setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    poll.add(fd_.get(), number);
}

bool Socket::receive(std::string& data) {
    thread_local char buffer[256 * 1024];
    while (true) {
        const ssize_t size = recv(fd_.get(), buffer, sizeof buffer, 0);
        if (size <= 0) return size < 0 && would_block();
        data.append(buffer, size_t(size));
        if (size_t(size) < sizeof buffer) return true;
    }
}

bool Socket::send(std::string_view data) {
    if (unsent_.empty()) {
        const ssize_t sent = ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
        if (sent < 0 && !would_block()) return false;
        if (sent > 0) data.remove_prefix(size_t(sent));
        if (data.empty()) return true;
        poll_.want_write(fd_.get(), number_, true);
    }
    unsent_.append(data);
    return true;
}

bool Socket::flush() {
    const std::string rest = std::exchange(unsent_, {});
    poll_.want_write(fd_.get(), number_, false);
    return rest.empty() || send(rest);
}

Descriptor listen_on_loopback() {
    Descriptor fd(checked(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket"));
    const sockaddr_in address = loopback(0);
    checked(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
    checked(listen(fd.get(), kBacklog), "listen");
    return fd;
}

Descriptor connect_to_loopback(int port) {
    Descriptor fd(checked(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket"));
    const sockaddr_in address = loopback(port);
    // On loopback a connection is made or refused at once.
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 && errno != EINPROGRESS)
        checked(-1, "connect");
    return fd;
}

int port_of(int fd) {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    checked(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
    return ntohs(address.sin_port);
}

}  // namespace trtdisagg::load
