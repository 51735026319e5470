// The attention kernels, compiled once per instruction set with TRTDISAGG_ISA naming it (isa.h picks one at run time).
//
// Softmax is online: keys come in passes of kTokensAtOnce, and when a pass brings a larger score, what was summed so far
// is scaled down (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). All sums are in float.

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

// --- prefill: many rows, so K (transposed) and V of a pass are laid out as floats once and multiplied as matrices ----

template <typename S>
void load_pass(const LayerCall& c, const Tile& t, int kv_head, int begin, int count, const Scratch& m) {
    const AttentionShape& s = c.shape;
    const int dim = padded(s.head_dim);
    for (int j = 0; j < count; ++j) {
        const int position = begin + j;
        const S* key = keys_of<S>(c, t, position, kv_head) + int64_t(position % s.tokens_per_block) * s.head_dim;
        const S* value = key + s.tokens_per_block * s.head_dim;
        for (int d = 0; d < s.head_dim; ++d) m.keys[d * kTokensAtOnce + j] = to_float(key[d]);
        convert(value, s.head_dim, 1.0f, m.values + j * dim);
    }
    for (int d = 0; d < s.head_dim; ++d)
        for (int j = count; j < padded(count); ++j) m.keys[d * kTokensAtOnce + j] = 0.0f;
    for (int j = 0; j < count; ++j)
        for (int d = s.head_dim; d < dim; ++d) m.values[j * dim + d] = 0.0f;
}

// c[M][W * kLanes] += or = a[M][k] b[k][...], all of c's part in registers.
template <int M, int W>
inline void multiply_panel(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int k, bool add) {
    Vec acc[M][W];
    for (int i = 0; i < M; ++i)
        for (int w = 0; w < W; ++w) acc[i][w] = add ? load(c + i * ldc + w * kLanes) : Vec{};
    for (int p = 0; p < k; ++p) {
        Vec row[W];
        for (int w = 0; w < W; ++w) row[w] = load(b + p * ldb + w * kLanes);
        for (int i = 0; i < M; ++i)
            for (int w = 0; w < W; ++w) acc[i][w] += a[i * lda + p] * row[w];
    }
    for (int i = 0; i < M; ++i)
        for (int w = 0; w < W; ++w) store(c + i * ldc + w * kLanes, acc[i][w]);
}

template <int M>
void multiply_rows(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int n, int k, bool add) {
    int j = 0;
    for (; j + 2 * kLanes <= n; j += 2 * kLanes) multiply_panel<M, 2>(a, lda, b + j, ldb, c + j, ldc, k, add);
    for (; j < n; j += kLanes) multiply_panel<M, 1>(a, lda, b + j, ldb, c + j, ldc, k, add);
}

// c[m][n] = a[m][k] b[k][n], or added to c; n is a multiple of kLanes.
void multiply(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int m, int n, int k, bool add) {
    int i = 0;
    for (; i + 6 <= m; i += 6) multiply_rows<6>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k, add);
    for (; i + 2 <= m; i += 2) multiply_rows<2>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k, add);
    for (; i < m; ++i) multiply_rows<1>(a + i * lda, lda, b, ldb, c + i * ldc, ldc, n, k, add);
}

template <typename S>
void attend_many(const LayerCall& c, const Tile& t, int kv_head, const Scratch& m) {
    const int group = c.shape.group, dim = padded(c.shape.head_dim), end = t.position + t.num_tokens;
    for (int begin = 0; begin < end; begin += kTokensAtOnce) {
        const int count = min(kTokensAtOnce, end - begin), width = padded(count);
        // Tokens before this pass's first key see none of it.
        const int first = begin > t.position ? (begin - t.position) * group : 0;
        const int rows = t.num_tokens * group - first;
        float* scores = m.scores + first * kTokensAtOnce;
        load_pass<S>(c, t, kv_head, begin, count, m);
        multiply(m.queries + first * dim, dim, m.keys, kTokensAtOnce, scores, kTokensAtOnce, rows, width,
                 c.shape.head_dim, false);
        for (int r = first; r < first + rows; ++r) {
            const int visible = min(count, t.position + r / group + 1 - begin);
            soften(m.scores + r * kTokensAtOnce, visible, width, m.sums + r * dim, dim, m.largest + r, m.weight + r);
        }
        multiply(scores, kTokensAtOnce, m.values, dim, m.sums + first * dim, dim, rows, dim, count, true);
    }
}

// --- decode: a few rows, so K and V are read where they lie, once -----------------------------------------------------

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
            for (; d + 4 * kLanes <= dim; d += 4 * kLanes) add_values<R, 4>(m.scores + j, values + d, run, dim, sums + d);
            for (; d < dim; d += kLanes) add_values<R, 1>(m.scores + j, values + d, run, dim, sums + d);
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

template <typename T, typename S>
void attend_tile(const LayerCall& c, const Tile& t, int kv_head, float* memory) {
    const Scratch m(c.shape, memory);
    load_queries<T>(c, t, kv_head, m);
    if (t.num_tokens == 1 && c.shape.head_dim % kLanes == 0)
        attend_one<S>(c, t, kv_head, m);
    else
        attend_many<S>(c, t, kv_head, m);
    store_out<T>(c, t, kv_head, m);
}

void write(const LayerCall& c, const Tile& t) {
    if (c.rows_are_bf16)
        c.shape.pool_is_bf16 ? write_tile<uint16_t, uint16_t>(c, t) : write_tile<uint16_t, float>(c, t);
    else
        c.shape.pool_is_bf16 ? write_tile<float, uint16_t>(c, t) : write_tile<float, float>(c, t);
}

void attend(const LayerCall& c, const Tile& t, int kv_head, float* scratch) {
    if (c.rows_are_bf16)
        c.shape.pool_is_bf16 ? attend_tile<uint16_t, uint16_t>(c, t, kv_head, scratch)
                             : attend_tile<uint16_t, float>(c, t, kv_head, scratch);
    else
        c.shape.pool_is_bf16 ? attend_tile<float, uint16_t>(c, t, kv_head, scratch)
                             : attend_tile<float, float>(c, t, kv_head, scratch);
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {write, attend, Scratch::floats};

}  // namespace trtdisagg::TRTDISAGG_ISA
