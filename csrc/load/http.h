// HTTP/1.1 as far as a load client and scripted workers need it: where a head ends, how long its body is, whether it is
// in chunks. What they talk to is trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trtdisagg::load {

struct Head {
    std::string_view first_line;
    size_t num_bytes = 0;         // of the head, with the empty line
    int64_t content_length = -1;  // -1: not said
    bool is_chunked = false;
    bool is_last = false;  // the connection is closed after the body
};

// Whether a whole head was there.
bool parse_head(std::string_view data, Head& head);

// What is behind a key of a JSON object, to the end of it all; empty: there is no such key.
std::string_view json_behind(std::string_view json, std::string_view key);

bool json_is_true(std::string_view json, std::string_view key);

// Takes the framing off a body in chunks.
class Chunks {
  public:
    // Append what `data` holds of the body to `body`; false: it is no chunked body.
    bool feed(std::string_view data, std::string& body);
    bool is_complete() const { return state_ == State::complete; }

  private:
    enum class State { size, extension, data, data_end, trailer, complete };
    bool step(char c);

    State state_ = State::size;
    size_t left_ = 0;
    int num_digits_ = 0;
    size_t line_bytes_ = 0;  // of a trailer
};

}  // namespace trtdisagg::load
