// Products with panels of weights, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "linear.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kVecs = kPanel / kLanes;  // vectors a panel is wide
// Vectors of sums that there are registers for beside weights and x.
constexpr int kSums = kLanes == 16 ? 24 : 12;
constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 2;  // rows at once
// Panels at once: more than one for few rows, whose sums would otherwise wait for each other.
constexpr int kPanels = 4;
// Inputs at once: a panel's part and the rows' stay in the nearest caches.
constexpr int kInputs = 768;

constexpr int panels_for(int rows) {
    const int fit = kSums / (rows * kVecs);
    return fit >= kPanels ? kPanels : fit >= 1 ? fit : 1;
}

// Sums of R rows and P panels.
template <int R, int P>
using Sums = Vec[R][P][kVecs];

inline int min(int a, int b) { return a < b ? a : b; }

template <int R, int P>
inline void add(Sums<R, P>& sums, const Vec (&weight)[P][kVecs], const float* x, int64_t stride) {
    for (int r = 0; r < R; ++r) {
        const Vec value = broadcast(x[r * stride]);
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) sums[r][p][v] += value * weight[p][v];
    }
}

inline VecU load_pairs(const uint16_t* p) {
    VecU pairs;
    memcpy(&pairs, p, sizeof pairs);
    return pairs;
}

// Add the products of `num_inputs` inputs. `weight` has the panels `apart` values from each other.
template <int R, int P>
inline void add_products(Sums<R, P>& sums, const float* weight, int64_t apart, const float* x, int64_t stride,
                         int num_inputs) {
    for (int i = 0; i < num_inputs; ++i, weight += kPanel) {
        Vec w[P][kVecs];
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) w[p][v] = load(weight + p * apart + v * kLanes);
        add<R, P>(sums, w, x + i, stride);
    }
}

template <int R, int P>
inline void add_products(Sums<R, P>& sums, const uint16_t* weight, int64_t apart, const float* x, int64_t stride,
                         int num_inputs) {
    Vec w[P][kVecs];
    int i = 0;
    for (; i + 2 <= num_inputs; i += 2, weight += 2 * kPanel) {
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) w[p][v] = (Vec)(load_pairs(weight + p * apart + 2 * v * kLanes) << 16);
        add<R, P>(sums, w, x + i, stride);
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v)
                w[p][v] = (Vec)(load_pairs(weight + p * apart + 2 * v * kLanes) & 0xffff0000u);
        add<R, P>(sums, w, x + i + 1, stride);
    }
    if (i < num_inputs) {
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) w[p][v] = load(weight + p * apart + v * kLanes);
        add<R, P>(sums, w, x + i, stride);
    }
}

// R rows with P panels, over the inputs from `begin` to `end`: what came before is in `out`, or it is the bias.
template <int R, int P, typename T>
void multiply_tile(const LinearCall& c, const T* weight, const float* bias, int row, int begin, int end, float* out,
                   int64_t out_stride) {
    const int64_t n = c.num_inputs, apart = n * kPanel;
    Sums<R, P> sums = {};
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) {
                const int at = p * kPanel + v * kLanes;
                if (begin > 0)
                    sums[r][p][v] = load(out + r * out_stride + at);
                else if (bias != nullptr)
                    sums[r][p][v] = load(bias + at);
            }
    add_products<R, P>(sums, weight + begin * kPanel, apart, c.x + row * n + begin, n, end - begin);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            for (int v = 0; v < kVecs; ++v) store(out + r * out_stride + p * kPanel + v * kLanes, sums[r][p][v]);
}

// The last panel where it is not full: through memory as wide as a whole one.
template <int R, typename T>
void multiply_last(const LinearCall& c, int row, int begin, int end) {
    const int first = c.num_outputs / kPanel * kPanel, count = c.num_outputs - first;
    float out[R][kPanel] = {}, bias[kPanel] = {};
    for (int r = 0; r < R; ++r)
        memcpy(out[r], c.out + int64_t(row + r) * c.num_outputs + first, count * sizeof(float));
    if (c.bias != nullptr) memcpy(bias, c.bias + first, count * sizeof(float));
    multiply_tile<R, 1>(c, static_cast<const T*>(c.last), bias, row, begin, end, out[0], kPanel);
    for (int r = 0; r < R; ++r)
        memcpy(c.out + int64_t(row + r) * c.num_outputs + first, out[r], count * sizeof(float));
}

template <int R, int P, typename T>
inline void multiply_full(const LinearCall& c, int panel, int row, int begin, int end) {
    const int64_t first = int64_t(panel) * kPanel;
    multiply_tile<R, P>(c, static_cast<const T*>(c.weight) + first * c.num_inputs, c.bias ? c.bias + first : nullptr,
                        row, begin, end, c.out + row * int64_t(c.num_outputs) + first, c.num_outputs);
}

// R rows with the panels from `panel` to `until`, as many at once as there are sums for.
template <int R, typename T>
void multiply_rows(const LinearCall& c, int panel, int until, int row, int begin, int end) {
    const int full = min(until, c.num_outputs / kPanel);
    constexpr int P = panels_for(R);
    for (; panel + P <= full; panel += P) multiply_full<R, P, T>(c, panel, row, begin, end);
    if constexpr (P > 2)
        for (; panel + 2 <= full; panel += 2) multiply_full<R, 2, T>(c, panel, row, begin, end);
    if constexpr (P > 1)
        for (; panel < full; ++panel) multiply_full<R, 1, T>(c, panel, row, begin, end);
    if (panel < until) multiply_last<R, T>(c, row, begin, end);
}

template <int R, typename T>
inline void multiply_block(const LinearCall& c, int panel, int until, int row, int num_rows, int begin, int end) {
    if constexpr (R > 0) {
        if (num_rows == R)
            multiply_rows<R, T>(c, panel, until, row, begin, end);
        else
            multiply_block<R - 1, T>(c, panel, until, row, num_rows, begin, end);
    }
}

// Rows in blocks of nearly the same size, each with all the weights that lie in the nearest cache.
template <typename T>
void multiply_panels(const LinearCall& c, int panel, int until, const LinearPart& part, int begin, int end) {
    const int num_rows = part.end_row - part.first_row;
    const int num_blocks = (num_rows + kRows - 1) / kRows;
    int row = part.first_row;
    for (int block = 0; block < num_blocks; ++block) {
        const int count = (part.end_row - row + num_blocks - block - 1) / (num_blocks - block);
        multiply_block<kRows, T>(c, panel, until, row, count, begin, end);
        row += count;
    }
}

template <typename T>
void multiply(const LinearCall& c, const LinearPart& part) {
    const int panels_at_once = part.end_row - part.first_row > kRows ? 1 : kPanels;
    for (int panel = part.first_panel; panel < part.end_panel; panel += panels_at_once) {
        const int until = min(panel + panels_at_once, part.end_panel);
        for (int begin = 0; begin < c.num_inputs; begin += kInputs)
            multiply_panels<T>(c, panel, until, part, begin, min(begin + kInputs, c.num_inputs));
    }
}

}  // namespace

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels = {multiply<uint16_t>, multiply<float>};

}  // namespace trtdisagg::TRTDISAGG_ISA
