// What prefill and decode share: working memory, where rows lie, rotation, and the online softmax. Kernel files only.
//
// Softmax is online: keys come in passes of kTokensAtOnce, and when a pass brings a larger score, what was summed so
// far is scaled down (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). Sums are in float.

#pragma once

#include "attention.h"
#include "vec.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

inline int padded(int n) { return (n + kLanes - 1) / kLanes * kLanes; }
inline int min(int a, int b) { return a < b ? a : b; }

// Working memory of one thread. Strides are multiples of kLanes, the padding stays zero or is never read.
struct Scratch {
    float* queries;  // [rows][dim]
    float* sums;     // [rows][dim]
    float* scores;   // [rows][kTokensAtOnce]
    float* keys;     // [dim][kTokensAtOnce], transposed
    float* values;   // [kTokensAtOnce][dim]
    float* largest;  // [rows]
    float* weight;   // [rows]

    static int64_t floats(const AttentionShape& s) {
        const int64_t rows = s.tile_tokens * s.group, dim = padded(s.head_dim);
        return rows * (2 * dim + kTokensAtOnce + 2) + 2 * dim * kTokensAtOnce;
    }

    Scratch(const AttentionShape& s, float* memory) {
        const int64_t rows = s.tile_tokens * s.group, dim = padded(s.head_dim);
        queries = memory;
        sums = queries + rows * dim;
        scores = sums + rows * dim;
        keys = scores + rows * kTokensAtOnce;
        values = keys + dim * kTokensAtOnce;
        largest = values + dim * kTokensAtOnce;
        weight = largest + rows;
    }
};

template <typename T>
const T* row_of(const LayerCall& c, int row, int head) {
    return static_cast<const T*>(c.qkv) + (int64_t(row) * c.shape.row_heads + head) * c.shape.head_dim;
}

// Where the keys of a KV head begin in the block of a position; its values lie tokens_per_block * head_dim further on.
template <typename S>
S* keys_of(const LayerCall& c, const Tile& t, int position, int kv_head) {
    const AttentionShape& s = c.shape;
    const int64_t block = t.blocks[position / s.tokens_per_block];
    return reinterpret_cast<S*>(c.pool + block * s.block_bytes + kv_head * s.head_bytes);
}

// Rotary embedding of one head: the pair (i, i + half) turns by the position's angle i.
template <typename T, typename O>
void rotate(const LayerCall& c, const T* in, int position, float scale, O* out) {
    const int half = c.shape.head_dim / 2;
    const float* cosines = c.cosines + int64_t(position) * half;
    const float* sines = c.sines + int64_t(position) * half;
    int i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        const Vec a = load(in + i), b = load(in + i + half), cosine = load(cosines + i), sine = load(sines + i);
        store(out + i, (a * cosine - b * sine) * scale);
        store(out + i + half, (b * cosine + a * sine) * scale);
    }
    for (; i < half; ++i) {
        const float a = to_float(in[i]), b = to_float(in[i + half]);
        from_float((a * cosines[i] - b * sines[i]) * scale, out + i);
        from_float((b * cosines[i] + a * sines[i]) * scale, out + i + half);
    }
}

// out = in * scale, from one type to the other.
template <typename T, typename O>
void convert(const T* in, int count, float scale, O* out) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load(in + i) * scale);
    for (; i < count; ++i) from_float(to_float(in[i]) * scale, out + i);
}

template <typename T, typename S>
void write_tile(const LayerCall& c, const Tile& t) {
    const AttentionShape& s = c.shape;
    for (int i = 0; i < t.num_tokens; ++i) {
        const int position = t.position + i;
        const int64_t slot = int64_t(position % s.tokens_per_block) * s.head_dim;
        for (int h = 0; h < s.num_kv_heads; ++h) {
            S* keys = keys_of<S>(c, t, position, h) + slot;
            S* values = keys + s.tokens_per_block * s.head_dim;
            rotate(c, row_of<T>(c, t.row + i, s.num_heads + h), position, 1.0f, keys);
            convert(row_of<T>(c, t.row + i, s.num_heads + s.num_kv_heads + h), s.head_dim, 1.0f, values);
        }
    }
}

// Row i * group + g holds token i of query head kv_head * group + g, rotated and scaled; sums and softmax start empty.
template <typename T>
void load_queries(const LayerCall& c, const Tile& t, int kv_head, const Scratch& m) {
    const int group = c.shape.group, dim = padded(c.shape.head_dim);
    memset(m.queries, 0, sizeof(float) * t.num_tokens * group * dim);
    memset(m.sums, 0, sizeof(float) * t.num_tokens * group * dim);
    for (int r = 0; r < t.num_tokens * group; ++r) {
        const T* query = row_of<T>(c, t.row + r / group, kv_head * group + r % group);
        rotate(c, query, t.position + r / group, c.shape.scale, m.queries + int64_t(r) * dim);
        m.largest[r] = -__builtin_inff();
        m.weight[r] = 0.0f;
    }
}

template <typename T>
void store_out(const LayerCall& c, const Tile& t, int kv_head, const Scratch& m) {
    const int group = c.shape.group, dim = padded(c.shape.head_dim);
    for (int r = 0; r < t.num_tokens * group; ++r) {
        const int64_t head = int64_t(t.row + r / group) * c.shape.num_heads + kv_head * group + r % group;
        T* out = static_cast<T*>(c.out) + head * c.shape.head_dim;
        convert(m.sums + int64_t(r) * dim, c.shape.head_dim, 1.0f / m.weight[r], out);
    }
}

// Turn the scores of one row into weights, and scale what the row has summed so far to the new largest score.
// Scores from `count` on, up to `width`, become weights of zero. `count` is at least 1 in a row's first pass.
void soften(float* scores, int count, int width, float* sums, int dim, float* largest, float* weight) {
    for (int j = count; j < width; ++j) scores[j] = -__builtin_inff();
    Vec top = load(scores);
    for (int j = kLanes; j < width; j += kLanes) top = vmax(top, load(scores + j));
    const float before = *largest, now = max(top) > before ? max(top) : before;
    Vec total{};
    for (int j = 0; j < width; j += kLanes) {
        const Vec w = exp_nonpositive(load(scores + j) - now);
        store(scores + j, w);
        total += w;
    }
    const float shrink = exp_nonpositive(broadcast(before - now))[0];
    *weight = *weight * shrink + sum(total);
    *largest = now;
    if (now != before)
        for (int d = 0; d < dim; d += kLanes) store(sums + d, load(sums + d) * shrink);
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
