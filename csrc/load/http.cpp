#include "load/http.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace trtdisagg::load {

namespace {

bool is_named(std::string_view line, std::string_view name) {
    if (line.size() <= name.size() || line[name.size()] != ':') return false;
    return std::equal(name.begin(), name.end(), line.begin(), [](char a, char b) { return a == (b | 0x20) || a == b; });
}

std::string_view value_of(std::string_view line) {
    line.remove_prefix(line.find(':') + 1);
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    return line;
}

int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
    return -1;
}

}  // namespace

bool parse_head(std::string_view data, Head& head) {
    const size_t end = data.find("\r\n\r\n");
    if (end == std::string_view::npos) return false;
    head = Head{};
    head.num_bytes = end + 4;
    data = data.substr(0, end + 2);
    head.first_line = data.substr(0, data.find("\r\n"));
    for (size_t at = head.first_line.size() + 2; at < data.size();) {
        const std::string_view line = data.substr(at, data.find("\r\n", at) - at);
        at += line.size() + 2;
        if (is_named(line, "content-length")) {
            const std::string_view value = value_of(line);
            std::from_chars(value.data(), value.data() + value.size(), head.content_length);
        } else if (is_named(line, "transfer-encoding")) {
            head.is_chunked = value_of(line) == "chunked";
        } else if (is_named(line, "connection")) {
            head.is_last = value_of(line) == "close";
        }
    }
    return true;
}

std::string_view json_behind(std::string_view json, std::string_view key) {
    const void* at = memmem(json.data(), json.size(), key.data(), key.size());
    if (!at) return {};
    const std::string_view rest = json.substr(size_t(static_cast<const char*>(at) - json.data()) + key.size());
    const size_t skipped = rest.find_first_not_of(": ");
    return skipped == std::string_view::npos ? std::string_view{} : rest.substr(skipped);
}

bool json_is_true(std::string_view json, std::string_view key) { return json_behind(json, key).substr(0, 4) == "true"; }

bool Chunks::feed(std::string_view data, std::string& body) {
    while (!data.empty()) {
        if (state_ == State::data) {
            const size_t taken = std::min(left_, data.size());
            body.append(data.substr(0, taken));
            data.remove_prefix(taken);
            left_ -= taken;
            if (!left_) state_ = State::data_end;
        } else {
            if (!step(data.front())) return false;
            data.remove_prefix(1);
        }
    }
    return true;
}

bool Chunks::step(char c) {
    switch (state_) {
        case State::size:
            if (const int digit = digit_of(c); digit >= 0) {
                left_ = left_ * 16 + size_t(digit);
                return ++num_digits_ <= 8;
            }
            state_ = State::extension;
            [[fallthrough]];
        case State::extension:
            if (c == '\n') {
                if (!num_digits_) return false;
                num_digits_ = 0;
                state_ = left_ ? State::data : State::trailer;
            }
            return true;
        case State::data_end:
            if (c == '\n') state_ = State::size;
            return c == '\r' || c == '\n';
        case State::trailer:
            if (c == '\n') {
                if (!line_bytes_) state_ = State::complete;
                line_bytes_ = 0;
            } else if (c != '\r') {
                ++line_bytes_;
            }
            return true;
        default:
            return false;  // bytes behind the end
    }
}

}  // namespace trtdisagg::load
