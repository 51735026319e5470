// Copies runs of bytes from one memory to another, all of them within bounds or none.

#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace trtdisagg {

struct Run {
    int64_t dst_offset;
    int64_t src_offset;
    int64_t length;
};

inline bool is_within(int64_t offset, int64_t length, int64_t size) {
    return offset >= 0 && length >= 0 && length <= size && offset <= size - length;
}

inline void copy_runs(char* dst, int64_t dst_bytes, const char* src, int64_t src_bytes, const Run* runs, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const Run& r = runs[i];
        if (!is_within(r.dst_offset, r.length, dst_bytes) || !is_within(r.src_offset, r.length, src_bytes))
            throw std::out_of_range("run " + std::to_string(i) + " (" + std::to_string(r.dst_offset) + ", " +
                                    std::to_string(r.src_offset) + ", " + std::to_string(r.length) +
                                    ") lies outside " + std::to_string(dst_bytes) + " bytes to write or " +
                                    std::to_string(src_bytes) + " to read");
    }
    for (size_t i = 0; i < count; ++i) std::memcpy(dst + runs[i].dst_offset, src + runs[i].src_offset, runs[i].length);
}

}  // namespace trtdisagg
