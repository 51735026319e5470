// A few rows of queries: K and V are read where they lie, once. Kernel files only.

#pragma once

#include "attention_parts.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

// scores[r][j] = queries[r] . keys[j] for N keys that follow each other.
template <int R, int N, typename S>
inline void dot(const float* queries, const S* keys, int dim, float* scores) {
    Vec acc[R][N] = {};
    for (int d = 0; d < dim; d += kLanes) {
        Vec key[N];
        for (int j = 0; j < N; ++j) key[j] = load(keys + j * dim + d);
        for (int r = 0; r < R; ++r) {
            const Vec query = load(queries + r * dim + d);
            for (int j = 0; j < N; ++j) acc[r][j] += query * key[j];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < N; ++j) scores[r * kTokensAtOnce + j] = sum(acc[r][j]);
}

// sums[r][W * kLanes] += weights[r][j] values[j], for `count` values that follow each other.
template <int R, int W, typename S>
inline void add_values(const float* weights, const S* values, int count, int dim, float* sums) {
    Vec acc[R][W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) acc[r][w] = load(sums + r * dim + w * kLanes);
    for (int j = 0; j < count; ++j) {
        Vec value[W];
        for (int w = 0; w < W; ++w) value[w] = load(values + j * dim + w * kLanes);
        for (int r = 0; r < R; ++r)
            for (int w = 0; w < W; ++w) acc[r][w] += weights[r * kTokensAtOnce + j] * value[w];
    }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < W; ++w) store(sums + r * dim + w * kLanes, acc[r][w]);
}

// R rows over all the keys. head_dim is a multiple of kLanes, so rows are not padded.
template <int R, typename S>
void attend_rows(const LayerCall& c, const Tile& t, int kv_head, const Scratch& m, int first) {
    const AttentionShape& s = c.shape;
    const int dim = s.head_dim, end = t.position + 1;
    const float* queries = m.queries + first * dim;
    float* sums = m.sums + first * dim;
    for (int begin = 0; begin < end; begin += kTokensAtOnce) {
        const int count = min(kTokensAtOnce, end - begin);
        for (int j = 0; j < count;) {
            const int slot = (begin + j) % s.tokens_per_block, run = min(count - j, s.tokens_per_block - slot);
            const S* keys = keys_of<S>(c, t, begin + j, kv_head) + slot * dim;
            int i = 0;
            for (; i + 4 <= run; i += 4) dot<R, 4>(queries, keys + i * dim, dim, m.scores + j + i);
            for (; i < run; ++i) dot<R, 1>(queries, keys + i * dim, dim, m.scores + j + i);
            j += run;
        }
        for (int r = 0; r < R; ++r)
            soften(m.scores + r * kTokensAtOnce, count, padded(count), sums + r * dim, dim, m.largest + first + r,
                   m.weight + first + r);
        for (int j = 0; j < count;) {
            const int slot = (begin + j) % s.tokens_per_block, run = min(count - j, s.tokens_per_block - slot);
            const S* values = keys_of<S>(c, t, begin + j, kv_head) + (s.tokens_per_block + slot) * dim;
            int d = 0;
            const float* weights = m.scores + j;
            for (; d + 4 * kLanes <= dim; d += 4 * kLanes) add_values<R, 4>(weights, values + d, run, dim, sums + d);
            for (; d < dim; d += kLanes) add_values<R, 1>(weights, values + d, run, dim, sums + d);
            j += run;
        }
    }
}

template <typename S>
void attend_one(const LayerCall& c, const Tile& t, int kv_head, const Scratch& m) {
    const int group = c.shape.group;
    int r = 0;
    for (; r + 3 <= group; r += 3) attend_rows<3, S>(c, t, kv_head, m, r);
    if (group - r == 2) attend_rows<2, S>(c, t, kv_head, m, r);
    if (group - r == 1) attend_rows<1, S>(c, t, kv_head, m, r);
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
