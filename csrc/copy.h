// Copies runs of bytes from one memory to another, all of them within bounds or none.

#pragma once

#include <cstddef>
#include <cstdint>

namespace trtdisagg {

struct Run {
    int64_t dst_offset;
    int64_t src_offset;
    int64_t length;
};

// Throws std::out_of_range, and copies nothing, when a run lies outside the given sizes. Memories must not overlap.
void copy_runs(char* dst, int64_t dst_bytes, const char* src, int64_t src_bytes, const Run* runs, size_t count);

}  // namespace trtdisagg
