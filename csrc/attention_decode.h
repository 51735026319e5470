// A single token of queries: K and V are read where they lie, once. Kernel files only.
//
// The values of a head are kept in the order in which bfloat16 is widened fastest (load_step); `out` gets them back in
// theirs. Keys come in splits that begin at multiples of kSplitTokens; each gives a partial result, and partials are
// merged in order, whoever computed them:
//
//     partial   | sums [group][head_dim] | largest [group] | weight [group] |

#pragma once

#include "attention_parts.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

constexpr int kStep = 2 * kLanes;

// Two vectors from 2 * kLanes values. Of bfloat16 the even ones, then the odd ones: a shift and a mask, where widening
// in order would take a shuffle too.
inline void load_step(const float* p, Vec& first, Vec& second) {
    first = load(p);
    second = load(p + kLanes);
}

inline void load_step(const uint16_t* p, Vec& even, Vec& odd) {
    VecU pairs;
    memcpy(&pairs, p, sizeof pairs);
    even = (Vec)(pairs << 16);
    odd = (Vec)(pairs & 0xffff0000u);
}

// Where value i of a head stands in that order.
inline int place(int i, const float*) { return i; }

inline int place(int i, const uint16_t*) {
    const int within = i % kStep;
    return i - within + within / 2 + (within % 2) * kLanes;
}

struct Partial {
    float* sums;
    float* largest;
    float* weight;

    static int64_t floats(const AttentionShape& s) { return int64_t(s.group) * (s.head_dim + 2); }

    Partial(const AttentionShape& s, float* memory)
        : sums(memory), largest(sums + s.group * s.head_dim), weight(largest + s.group) {}
};

struct DecodeScratch {
    float* queries;  // [group][head_dim]
    float* scores;   // [group][kSplitTokens]
    float* room;     // [2 head_dim]
    float* total;    // partials
    float* part;

    static int64_t floats(const AttentionShape& s) {
        return int64_t(s.group) * (s.head_dim + kSplitTokens) + 2 * s.head_dim + 2 * Partial::floats(s);
    }

    DecodeScratch(const AttentionShape& s, float* memory)
        : queries(memory), scores(queries + s.group * s.head_dim), room(scores + s.group * kSplitTokens),
          total(room + 2 * s.head_dim), part(total + Partial::floats(s)) {}
};

// scores[r][j] = queries[r] . keys[j] for N keys that follow each other.
template <int R, int N, typename S>
inline void dot(const float* queries, const S* keys, int dim, float* scores) {
    Vec acc[R][4] = {};
    for (int d = 0; d < dim; d += kStep)
        for (int half = 0; half < 2; ++half)
            for (int j = 0; j < N; ++j) {
                Vec key[2];
                load_step(keys + j * dim + d, key[0], key[1]);
                for (int r = 0; r < R; ++r) acc[r][j] += load(queries + r * dim + d + half * kLanes) * key[half];
            }
    for (int r = 0; r < R; ++r) {
        float sums[4];
        sum_four(acc[r], sums);
        for (int j = 0; j < N; ++j) scores[r * kSplitTokens + j] = sums[j];
    }
}

// sums[r][...] += weights[r][j] values[j], for W steps of `count` values that follow each other.
template <int R, int W, typename S>
inline void add_values(const float* weights, const S* values, int count, int dim, float* sums) {
    Vec acc[R][2 * W];
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < 2 * W; ++w) acc[r][w] = load(sums + r * dim + w * kLanes);
    for (int j = 0; j < count; ++j)
        for (int w = 0; w < W; ++w) {
            Vec first, second;
            load_step(values + j * dim + w * kStep, first, second);
            for (int r = 0; r < R; ++r) {
                acc[r][2 * w] += weights[r * kSplitTokens + j] * first;
                acc[r][2 * w + 1] += weights[r * kSplitTokens + j] * second;
            }
        }
    for (int r = 0; r < R; ++r)
        for (int w = 0; w < 2 * W; ++w) store(sums + r * dim + w * kLanes, acc[r][w]);
}

// Turn the scores of one row into weights.
inline void soften(float* scores, int count, float* largest, float* weight) {
    for (int j = count; j < padded(count); ++j) scores[j] = -__builtin_inff();
    Vec top = load(scores), total{};
    for (int j = kLanes; j < count; j += kLanes) top = vmax(top, load(scores + j));
    *largest = max(top);
    for (int j = 0; j < count; j += kLanes) {
        const Vec w = exp_nonpositive(load(scores + j) - *largest);
        store(scores + j, w);
        total += w;
    }
    *weight = sum(total);
}

// Calls f(first, how many, of which the first is number j) for each block's share of [begin, end); `where` is key_of or
// value_of.
template <typename S, typename F>
inline void each_run(const LayerCall& c, const Tile& t, int begin, int end,
                     S* (*where)(const LayerCall&, const Tile&, int, int), int kv_head, const F& f) {
    const int per_block = c.shape.tokens_per_block;
    for (int p = begin; p < end;) {
        const int run = smaller(end - p, per_block - p % per_block);
        f(where(c, t, p, kv_head), run, p - begin);
        p += run;
    }
}

// R rows of queries over the keys of [begin, end).
template <int R, typename S>
void attend_rows(const LayerCall& c, const Tile& t, int kv_head, int begin, int end, int first, const DecodeScratch& m,
                 const Partial& p) {
    const int dim = c.shape.head_dim, count = end - begin;
    const float* queries = m.queries + first * dim;
    float* sums = p.sums + first * dim;
    each_run<S>(c, t, begin, end, key_of<S>, kv_head, [&](const S* keys, int run, int j) {
        int i = 0;
        for (; i + 4 <= run; i += 4) dot<R, 4>(queries, keys + i * dim, dim, m.scores + j + i);
        for (; i < run; ++i) dot<R, 1>(queries, keys + i * dim, dim, m.scores + j + i);
    });
    for (int r = 0; r < R; ++r) {
        float* scores = m.scores + r * kSplitTokens;
        if (c.shape.softcap != 0)
            for (int j = 0; j < count; j += kLanes) store(scores + j, softcapped(load(scores + j), c.shape.softcap));
        soften(scores, count, p.largest + first + r, p.weight + first + r);
    }
    memset(sums, 0, sizeof(float) * R * dim);
    each_run<S>(c, t, begin, end, value_of<S>, kv_head, [&](const S* values, int run, int j) {
        int d = 0;
        for (; d + 2 * kStep <= dim; d += 2 * kStep) add_values<R, 2>(m.scores + j, values + d, run, dim, sums + d);
        for (; d < dim; d += kStep) add_values<R, 1>(m.scores + j, values + d, run, dim, sums + d);
    });
}

template <typename S>
void attend_keys(const LayerCall& c, const Tile& t, int kv_head, int split, const DecodeScratch& m, float* partial) {
    const Partial p(c.shape, partial);
    const int begin = larger(split * kSplitTokens, first_seen(c, t.position));
    const int end = smaller((split + 1) * kSplitTokens, t.position + 1), group = c.shape.group;
    int r = 0;
    for (; r + 3 <= group; r += 3) attend_rows<3, S>(c, t, kv_head, begin, end, r, m, p);
    if (group - r == 2) attend_rows<2, S>(c, t, kv_head, begin, end, r, m, p);
    if (group - r == 1) attend_rows<1, S>(c, t, kv_head, begin, end, r, m, p);
}

// The token's queries, and, if they belong to the split, its key and value.
template <typename S>
void bring(const LayerCall& c, const Tile& t, int kv_head, bool writes, const DecodeScratch& m) {
    const int group = c.shape.group, dim = c.shape.head_dim;
    if (writes) write_token<S>(c, t, 0, kv_head, m.room);
    float* query = m.room + dim;
    for (int g = 0; g < group; ++g) {
        make_head(c, c.layer.q_norm, row_of(c, t.row, kv_head * group + g), t.position, c.shape.scale, m.room, query);
        for (int i = 0; i < dim; ++i) m.queries[g * dim + place(i, static_cast<const S*>(nullptr))] = query[i];
    }
}

// total = total + part
inline void merge(const AttentionShape& s, const Partial& total, const Partial& part) {
    for (int r = 0; r < s.group; ++r) {
        const float now = total.largest[r] > part.largest[r] ? total.largest[r] : part.largest[r];
        const float before = exp_nonpositive(broadcast(total.largest[r] - now))[0];
        const float added = exp_nonpositive(broadcast(part.largest[r] - now))[0];
        total.largest[r] = now;
        total.weight[r] = total.weight[r] * before + part.weight[r] * added;
        for (int d = r * s.head_dim; d < (r + 1) * s.head_dim; d += kLanes)
            store(total.sums + d, load(total.sums + d) * before + load(part.sums + d) * added);
    }
}

inline Partial nothing(const AttentionShape& s, float* memory) {
    const Partial p(s, memory);
    memset(p.sums, 0, sizeof(float) * s.group * s.head_dim);
    for (int r = 0; r < s.group; ++r) p.largest[r] = kLowest, p.weight[r] = 0.0f;
    return p;
}

template <typename S>
void put_out(const LayerCall& c, const Tile& t, int kv_head, const Partial& p) {
    const int group = c.shape.group, dim = c.shape.head_dim;
    for (int g = 0; g < group; ++g) {
        float* out = out_of(c, t.out_row, kv_head * group + g);
        const float scale = 1.0f / p.weight[g];
        for (int i = 0; i < dim; ++i) out[i] = p.sums[g * dim + place(i, static_cast<const S*>(nullptr))] * scale;
    }
}

template <typename S>
void attend_whole(const LayerCall& c, const Tile& t, int kv_head, float* memory) {
    const DecodeScratch m(c.shape, memory);
    bring<S>(c, t, kv_head, true, m);
    const Partial total = nothing(c.shape, m.total), part(c.shape, m.part);
    for (int i = first_seen(c, t.position) / kSplitTokens; i < num_splits(t.position); ++i) {
        attend_keys<S>(c, t, kv_head, i, m, m.part);
        merge(c.shape, total, part);
    }
    put_out<S>(c, t, kv_head, total);
}

template <typename S>
void attend_part(const LayerCall& c, const Tile& t, int kv_head, int split, float* memory, float* partial) {
    if (split < first_seen(c, t.position) / kSplitTokens) return;
    const DecodeScratch m(c.shape, memory);
    bring<S>(c, t, kv_head, split == num_splits(t.position) - 1, m);
    attend_keys<S>(c, t, kv_head, split, m, partial);
}

template <typename S>
void merge_parts(const LayerCall& c, const Tile& t, int kv_head, float* memory, const float* partials) {
    const Partial total = nothing(c.shape, DecodeScratch(c.shape, memory).total);
    for (int i = first_seen(c, t.position) / kSplitTokens; i < num_splits(t.position); ++i)
        merge(c.shape, total, Partial(c.shape, const_cast<float*>(partials) + i * Partial::floats(c.shape)));
    put_out<S>(c, t, kv_head, total);
}

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
