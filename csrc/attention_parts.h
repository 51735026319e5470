// What prefill and decode share: where rows lie, and how queries, keys and values are made of them. Kernel files only.
//
// Softmax is online: keys come in passes, and when a pass brings a larger score, what was summed so far is scaled down
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

#pragma once

#include "attention.h"
#include "norm.h"
#include "vec_math.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

// The largest score of no scores: finite, so that differences to it are no NaN.
constexpr float kLowest = -1e30f;

inline int padded(int n) { return (n + kLanes - 1) / kLanes * kLanes; }
inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

inline const float* row_of(const LayerCall& c, int row, int head) {
    return c.qkv + (int64_t(row) * c.shape.row_heads + head) * c.shape.head_dim;
}

inline float* out_of(const LayerCall& c, int row, int head) {
    return c.out + (int64_t(row) * c.shape.num_heads + head) * c.shape.head_dim;
}

// Where the key of a position lies; its value lies tokens_per_block * head_dim further on.
template <typename S>
S* key_of(const LayerCall& c, const Tile& t, int position, int kv_head) {
    const AttentionShape& s = c.shape;
    const int64_t block = t.blocks[position / s.tokens_per_block], slot = position % s.tokens_per_block;
    return reinterpret_cast<S*>(c.pool + block * s.block_bytes + kv_head * s.head_bytes) + slot * s.head_dim;
}

template <typename S>
S* value_of(const LayerCall& c, const Tile& t, int position, int kv_head) {
    return key_of<S>(c, t, position, kv_head) + c.shape.tokens_per_block * c.shape.head_dim;
}

// The first position that a token at `position` sees.
inline int first_seen(const LayerCall& c, int position) { return larger(0, position - c.layer.window + 1); }

// out = in * scale, from one type to the other.
template <typename T, typename O>
void convert(const T* in, int count, float scale, O* out) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load(in + i) * scale);
    for (; i < count; ++i) from_float(to_float(in[i]) * scale, out + i);
}

// Rotary embedding of one head: the pair (i, i + half) turns by the position's angle i.
template <typename O>
void rotate(const LayerCall& c, const float* in, int position, float scale, O* out) {
    const int half = c.shape.head_dim / 2;
    const float* cosines = c.layer.cosines + int64_t(position) * half;
    const float* sines = c.layer.sines + int64_t(position) * half;
    int i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        const Vec a = load(in + i), b = load(in + i + half), cosine = load(cosines + i), sine = load(sines + i);
        store(out + i, (a * cosine - b * sine) * scale);
        store(out + i + half, (b * cosine + a * sine) * scale);
    }
    for (; i < half; ++i) {
        const float a = in[i], b = in[i + half];
        from_float((a * cosines[i] - b * sines[i]) * scale, out + i);
        from_float((b * cosines[i] + a * sines[i]) * scale, out + i + half);
    }
}

// A head of queries or keys as attention takes it: normalized, rotated, scaled. `room` has space for a head.
template <typename O>
void make_head(const LayerCall& c, const Norm& norm, const float* in, int position, float scale, float* room, O* out) {
    if (norm.weight) {
        normalize(norm, in, c.shape.head_dim, room);
        in = room;
    }
    if (c.layer.cosines)
        rotate(c, in, position, scale, out);
    else
        convert(in, c.shape.head_dim, scale, out);
}

// Key and value of token i of a tile.
template <typename S>
void write_token(const LayerCall& c, const Tile& t, int i, int kv_head, float* room) {
    const AttentionShape& s = c.shape;
    const float* key = row_of(c, t.row + i, s.num_heads + kv_head);
    make_head(c, c.layer.k_norm, key, t.position + i, 1.0f, room, key_of<S>(c, t, t.position + i, kv_head));
    convert(key + s.num_kv_heads * s.head_dim, s.head_dim, 1.0f, value_of<S>(c, t, t.position + i, kv_head));
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
