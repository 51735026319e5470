// What is larger than a core's share of the cache goes past it: a store that passes the cache does not read the line that
// it replaces first, which is a third of the traffic of a plain copy.

#include "copy.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace trtdisagg {

namespace {

constexpr int64_t kStreamed = 4 << 20;    // bytes of all runs from which on the cache is passed by
constexpr int64_t kStreamedRun = 1 << 10;  // shorter ones are copied plainly all the same
constexpr size_t kLine = 64;

bool is_within(int64_t offset, int64_t length, int64_t size) {
    return offset >= 0 && length >= 0 && length <= size && offset <= size - length;
}

void check(const Run& r, size_t index, int64_t dst_bytes, int64_t src_bytes) {
    if (is_within(r.dst_offset, r.length, dst_bytes) && is_within(r.src_offset, r.length, src_bytes)) return;
    throw std::out_of_range("run " + std::to_string(index) + " (" + std::to_string(r.dst_offset) + ", " +
                            std::to_string(r.src_offset) + ", " + std::to_string(r.length) + ") lies outside " +
                            std::to_string(dst_bytes) + " bytes to write or " + std::to_string(src_bytes) +
                            " to read");
}

#if defined(__SSE2__)

void stream(char* dst, const char* src, size_t length) {
    const size_t head = std::min(length, size_t(-reinterpret_cast<uintptr_t>(dst)) % kLine);
    std::memcpy(dst, src, head);
    dst += head, src += head, length -= head;
    for (; length >= kLine; dst += kLine, src += kLine, length -= kLine) {
        const auto* from = reinterpret_cast<const __m128i*>(src);
        auto* to = reinterpret_cast<__m128i*>(dst);
        _mm_prefetch(src + 8 * kLine, _MM_HINT_NTA);
        const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
        const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
        _mm_stream_si128(to, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }
    std::memcpy(dst, src, length);
}

// Whoever is told that the copy is done must see what was stored.
void finish() { _mm_sfence(); }

#else

void stream(char* dst, const char* src, size_t length) { std::memcpy(dst, src, length); }
void finish() {}

#endif

}  // namespace

void copy_runs(char* dst, int64_t dst_bytes, const char* src, int64_t src_bytes, const Run* runs, size_t count) {
    int64_t total = 0;
    for (size_t i = 0; i < count; ++i) {
        check(runs[i], i, dst_bytes, src_bytes);
        total += runs[i].length;
    }
    for (size_t i = 0; i < count; ++i) {
        const Run& r = runs[i];
        if (total >= kStreamed && r.length >= kStreamedRun)
            stream(dst + r.dst_offset, src + r.src_offset, size_t(r.length));
        else
            std::memcpy(dst + r.dst_offset, src + r.src_offset, size_t(r.length));
    }
    finish();
}

}  // namespace trtdisagg
