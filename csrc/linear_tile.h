// A product cut into tiles of a few rows and panels whose sums stay in registers. Kernel files only.
//
// What a type of weight adds is a struct with
//     Weight                                         the type of a number of it
//     kSums                                          vectors of sums that there are registers for
//     add(call, weight, scales, row, begin, end, sums)   the products of the inputs from begin to end

#pragma once

#include "linear.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kVecs = kPanel / kLanes;  // vectors a panel is wide
// Panels at once: more than one for few rows, whose sums would otherwise wait for each other.
constexpr int kPanels = 4;
// Inputs at once: that part of a panel stays in the nearest cache for one block of rows after the other.
constexpr int kInputs = 768;

inline int min(int a, int b) { return a < b ? a : b; }

// How far ahead of its use a weight is asked for: the hardware alone starts anew at each panel and page.
constexpr int kBytesAhead = 1536;

// The step of each panel that is wanted some steps from now; what lies behind a panel is the next.
template <int P, typename T>
inline void prefetch(const T* weight, int64_t apart) {
    for (int p = 0; p < P; ++p) __builtin_prefetch(reinterpret_cast<const char*>(weight + p * apart) + kBytesAhead);
}

// sum + a * b. Left to itself the compiler moves sums from register to register and through memory.
inline Vec add_product(Vec sum, Vec a, Vec b) {
#if defined(__FMA__)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return sum + a * b;
#endif
}

template <int R, int P>
using Sums = Vec[R][P][kVecs];

template <typename Type>
struct Tiling {
    static constexpr int kRows = Type::kSums / kVecs > 12 ? 12 : Type::kSums / kVecs;  // rows at once, at most

    static constexpr int panels(int rows) {
        const int fit = Type::kSums / (rows * kVecs);
        return fit >= kPanels ? kPanels : fit >= 1 ? fit : 1;
    }
};

// R rows with P panels, over the inputs from `begin` to `end`: what came before is in `out`, or it is the bias.
template <typename Type, int R, int P>
void multiply_tile(const LinearCall& c, const typename Type::Weight* weight, const float* scales, const float* bias,
                   int row, int begin, int end, float* out, int64_t out_stride) {
    static const float no_bias[P * kPanel] = {};
    const float* before = begin > 0 ? out : bias != nullptr ? bias : no_bias;
    const int64_t stride = begin > 0 ? out_stride : 0;
    Sums<R, P> sums;
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) sums[r][p][v] = load(before + r * stride + p * kPanel + v * kLanes);
    Type::template add<R, P>(c, weight, scales, row, begin, end, sums);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) store(out + r * out_stride + p * kPanel + v * kLanes, sums[r][p][v]);
}

template <typename Type, int R, int P>
inline void multiply_full(const LinearCall& c, int panel, int row, int begin, int end) {
    const int64_t first = int64_t(panel) * kPanel;
    const auto* weight = static_cast<const typename Type::Weight*>(c.panels.weight) + first * c.num_inputs;
    const float* scales = c.panels.scales ? c.panels.scales + first * (c.num_inputs / c.group) : nullptr;
    multiply_tile<Type, R, P>(c, weight, scales, c.bias ? c.bias + first : nullptr, row, begin, end,
                              c.out + row * int64_t(c.num_outputs) + first, c.num_outputs);
}

// The last panel where it is not full: through memory as wide as a whole one.
template <typename Type, int R>
void multiply_last(const LinearCall& c, int row, int begin, int end) {
    const int first = c.num_outputs / kPanel * kPanel, bytes = (c.num_outputs - first) * int(sizeof(float));
    float* const rows = c.out + int64_t(row) * c.num_outputs + first;
    float out[R][kPanel] = {}, bias[kPanel] = {};
    for (int r = 0; r < R; ++r) memcpy(out[r], rows + int64_t(r) * c.num_outputs, bytes);
    if (c.bias != nullptr) memcpy(bias, c.bias + first, bytes);
    multiply_tile<Type, R, 1>(c, static_cast<const typename Type::Weight*>(c.panels.last), c.panels.last_scales, bias,
                              row, begin, end, out[0], kPanel);
    for (int r = 0; r < R; ++r) memcpy(rows + int64_t(r) * c.num_outputs, out[r], bytes);
}

// R rows with the panels from `panel` to `until`, as many at once as there are sums for.
template <typename Type, int R>
void multiply_rows(const LinearCall& c, int panel, int until, int row, int begin, int end) {
    const int full = min(until, c.num_outputs / kPanel);
    constexpr int P = Tiling<Type>::panels(R);
    for (; panel + P <= full; panel += P) multiply_full<Type, R, P>(c, panel, row, begin, end);
    if constexpr (P > 2)
        for (; panel + 2 <= full; panel += 2) multiply_full<Type, R, 2>(c, panel, row, begin, end);
    if constexpr (P > 1)
        for (; panel < full; ++panel) multiply_full<Type, R, 1>(c, panel, row, begin, end);
    if (panel < until) multiply_last<Type, R>(c, row, begin, end);
}

template <typename Type, int R>
inline void multiply_block(const LinearCall& c, int panel, int until, int row, int num_rows, int begin, int end) {
    if constexpr (R > 0) {
        if (num_rows == R)
            multiply_rows<Type, R>(c, panel, until, row, begin, end);
        else
            multiply_block<Type, R - 1>(c, panel, until, row, num_rows, begin, end);
    }
}

// Rows in blocks of nearly the same size, each with all the weights that lie in the nearest cache.
template <typename Type>
void multiply_panels(const LinearCall& c, int panel, int until, const LinearPart& part, int begin, int end) {
    constexpr int most = Tiling<Type>::kRows;
    int row = part.first_row;
    for (int blocks = (part.end_row - row + most - 1) / most; blocks > 0; --blocks) {
        const int count = (part.end_row - row + blocks - 1) / blocks;
        multiply_block<Type, most>(c, panel, until, row, count, begin, end);
        row += count;
    }
}

template <typename Type>
void multiply(const LinearCall& c, const LinearPart& part) {
    const int panels_at_once = part.end_row - part.first_row > Tiling<Type>::kRows ? 1 : kPanels;
    const int inputs_at_once = c.panels.scales ? kInputs / c.group * c.group : kInputs;
    for (int panel = part.first_panel; panel < part.end_panel; panel += panels_at_once) {
        const int until = min(panel + panels_at_once, part.end_panel);
        for (int begin = 0; begin < c.num_inputs; begin += inputs_at_once)
            multiply_panels<Type>(c, panel, until, part, begin, min(begin + inputs_at_once, c.num_inputs));
    }
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
