// Many rows of queries: K (transposed) and V of a pass are laid out as floats once and multiplied as matrices. Kernel
// files only.

#pragma once

#include "attention_parts.h"

namespace trtdisagg::TRTDISAGG_ISA {
namespace {

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

}  // namespace
}  // namespace trtdisagg::TRTDISAGG_ISA
