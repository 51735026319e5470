// Many rows of queries: a tile is computed with its rows side by side in the lanes, so that nothing is summed across
// lanes and the softmax of all rows goes on at once. Kernel files only.
//
//     scores [key][row]   = keys [key][dim] queries [dim][row]
//     sums   [dim][row]  += values [key][dim]^T weights [key][row]
//
// Row i * group + g is token i of query head kv_head * group + g. Passes begin at multiples of kTokensAtOnce.

#pragma once

#include "attention_parts.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

// Working memory of one thread. `rows` is the stride of a row of queries: whole vectors, with zeros behind the last.
struct TileScratch {
    int rows;
    float* queries;    // [dim][rows]
    float* sums;       // [dim][rows]
    float* scores;     // [kTokensAtOnce][rows]
    float* keys;       // [kTokensAtOnce][dim]
    float* values;     // [kTokensAtOnce][dim]
    float* largest;    // [rows]
    float* weight;     // [rows]
    float* positions;  // [rows]
    float* room;       // [2 dim]

    static int64_t floats(const AttentionShape& s) {
        const int64_t rows = padded(s.tile_tokens * s.group), dim = s.head_dim;
        return rows * (2 * dim + kTokensAtOnce + 3) + 2 * dim * kTokensAtOnce + 2 * dim;
    }

    TileScratch(const AttentionShape& s, int num_tokens, float* memory) : rows(padded(num_tokens * s.group)) {
        const int dim = s.head_dim;
        queries = memory;
        sums = queries + dim * rows;
        scores = sums + dim * rows;
        keys = scores + kTokensAtOnce * rows;
        values = keys + kTokensAtOnce * dim;
        largest = values + kTokensAtOnce * dim;
        weight = largest + rows;
        positions = weight + rows;
        room = positions + rows;
    }
};

// c[M][W vectors] = or += the sum over p < k of a[i step_i + p step_p] b[p][...]; all of c's part is in registers.
template <int M, int W>
inline void multiply_panel(const float* a, int step_i, int step_p, const float* b, float* c, int stride, int k,
                           bool add) {
    Vec acc[M][W];
    for (int i = 0; i < M; ++i)
        for (int w = 0; w < W; ++w) acc[i][w] = add ? load(c + i * stride + w * kLanes) : Vec{};
    for (int p = 0; p < k; ++p) {
        Vec row[W];
        for (int w = 0; w < W; ++w) row[w] = load(b + p * stride + w * kLanes);
        for (int i = 0; i < M; ++i)
            for (int w = 0; w < W; ++w) acc[i][w] += a[i * step_i + p * step_p] * row[w];
    }
    for (int i = 0; i < M; ++i)
        for (int w = 0; w < W; ++w) store(c + i * stride + w * kLanes, acc[i][w]);
}

template <int W>
inline void multiply_columns(const float* a, int step_i, int step_p, const float* b, float* c, int stride, int m, int k,
                             bool add) {
    constexpr int M = kLanes == 16 ? 12 : 6;
    int i = 0;
    for (; i + M <= m; i += M) multiply_panel<M, W>(a + i * step_i, step_i, step_p, b, c + i * stride, stride, k, add);
    for (; i + 4 <= m; i += 4) multiply_panel<4, W>(a + i * step_i, step_i, step_p, b, c + i * stride, stride, k, add);
    for (; i < m; ++i) multiply_panel<1, W>(a + i * step_i, step_i, step_p, b, c + i * stride, stride, k, add);
}

// The columns from `begin` to `end` of c [m][stride] = or += a b [k][stride].
inline void multiply(const float* a, int step_i, int step_p, const float* b, float* c, int stride, int begin, int end,
                     int m, int k, bool add) {
    int n = begin;
    for (; n + 2 * kLanes <= end; n += 2 * kLanes)
        multiply_columns<2>(a, step_i, step_p, b + n, c + n, stride, m, k, add);
    for (; n < end; n += kLanes) multiply_columns<1>(a, step_i, step_p, b + n, c + n, stride, m, k, add);
}

inline void load_queries(const LayerCall& c, const Tile& t, int kv_head, const TileScratch& m) {
    const int group = c.shape.group, dim = c.shape.head_dim, used = t.num_tokens * group;
    memset(m.sums, 0, sizeof(float) * dim * m.rows);
    for (int r = 0; r < m.rows; ++r) {
        const int token = smaller(r / group, t.num_tokens - 1);
        float* query = m.room + dim;
        if (r < used) {
            const float* in = row_of(c, t.row + token, kv_head * group + r % group);
            make_head(c, c.layer.q_norm, in, t.position + token, c.shape.scale, m.room, query);
        } else {
            memset(query, 0, sizeof(float) * dim);
        }
        for (int d = 0; d < dim; ++d) m.queries[d * m.rows + r] = query[d];
        m.largest[r] = kLowest;
        m.weight[r] = 0.0f;
        m.positions[r] = float(t.position + token);
    }
}

template <typename S>
void load_keys(const LayerCall& c, const Tile& t, int kv_head, int begin, int count, const TileScratch& m) {
    const int dim = c.shape.head_dim, per_block = c.shape.tokens_per_block;
    for (int j = 0; j < count;) {
        const int run = smaller(count - j, per_block - (begin + j) % per_block);
        const S* keys = key_of<S>(c, t, begin + j, kv_head);
        convert(keys, run * dim, 1.0f, m.keys + j * dim);
        convert(keys + per_block * dim, run * dim, 1.0f, m.values + j * dim);
        j += run;
    }
}

// The score of a key becomes -infinity for rows that do not see it.
inline void hide(const LayerCall& c, int key, int n, float* scores, const TileScratch& m) {
    const Vec distance = load(m.positions + n) - float(key);
    const VecI sees = (distance >= 0) & (distance < float(c.layer.window));
    store(scores, sees ? load(scores) : broadcast(-__builtin_inff()));
}

// One vector of rows: scores become weights, and what was summed so far is scaled to the new largest score.
inline void soften_rows(const LayerCall& c, int n, int count, const TileScratch& m) {
    const int dim = c.shape.head_dim;
    Vec top = broadcast(kLowest), total{};
    for (int j = 0; j < count; ++j) top = vmax(top, load(m.scores + j * m.rows + n));
    const Vec before = load(m.largest + n), now = vmax(before, top), shrink = exp_nonpositive(before - now);
    for (int j = 0; j < count; ++j) {
        float* scores = m.scores + j * m.rows + n;
        const Vec w = exp_nonpositive(load(scores) - now);
        store(scores, w);
        total += w;
    }
    store(m.weight + n, load(m.weight + n) * shrink + total);
    store(m.largest + n, now);
    for (int d = 0; d < dim; ++d) store(m.sums + d * m.rows + n, load(m.sums + d * m.rows + n) * shrink);
}

template <typename S>
void attend_pass(const LayerCall& c, const Tile& t, int kv_head, int begin, const TileScratch& m) {
    const AttentionShape& s = c.shape;
    const int last = t.position + t.num_tokens - 1, count = smaller(kTokensAtOnce, last + 1 - begin), dim = s.head_dim;
    // Tokens before the pass's first key see none of it, nor do those whose window begins behind its last.
    const int first_row = larger(0, begin - t.position) * s.group / kLanes * kLanes;
    const int64_t end_token = int64_t(begin) + count - 1 + c.layer.window - t.position;
    const int end_row = end_token < t.num_tokens ? padded(int(end_token) * s.group) : m.rows;
    if (end_row <= first_row) return;
    load_keys<S>(c, t, kv_head, begin, count, m);
    multiply(m.keys, dim, 1, m.queries, m.scores, m.rows, first_row, end_row, count, dim, false);
    const bool all_seen = begin + count - 1 <= t.position && begin >= first_seen(c, last);
    for (int n = first_row; n < end_row; n += kLanes) {
        for (int j = 0; j < count && s.softcap != 0; ++j) {
            float* scores = m.scores + j * m.rows + n;
            store(scores, softcapped(load(scores), s.softcap));
        }
        for (int j = 0; j < count && !all_seen; ++j) hide(c, begin + j, n, m.scores + j * m.rows + n, m);
        soften_rows(c, n, count, m);
    }
    multiply(m.values, 1, dim, m.scores, m.sums, m.rows, first_row, end_row, dim, count, true);
}

template <typename S>
void attend_tile(const LayerCall& c, const Tile& t, int kv_head, float* memory) {
    const TileScratch m(c.shape, t.num_tokens, memory);
    const int group = c.shape.group, dim = c.shape.head_dim;
    load_queries(c, t, kv_head, m);
    const int first = first_seen(c, t.position) / kTokensAtOnce * kTokensAtOnce;
    for (int begin = first; begin < t.position + t.num_tokens; begin += kTokensAtOnce)
        attend_pass<S>(c, t, kv_head, begin, m);
    for (int r = 0; r < t.num_tokens * group; ++r) {
        float* out = out_of(c, t.out_row + r / group, kv_head * group + r % group);
        const float scale = 1.0f / m.weight[r];
        for (int d = 0; d < dim; ++d) out[d] = m.sums[d * m.rows + r] * scale;
    }
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
