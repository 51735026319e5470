// Attention over the block pool: what the binding and the kernels share.
//
//   pool    [block][layer][kv_head][k|v][token][head_dim]
//   qkv     [token][heads: queries, keys, values][head_dim]      one row per token of the step, as the product left it
//   out     [token][query head][head_dim]
//
// A step is cut into tiles, consecutive tokens of one chunk, and the query heads that share a KV head are computed
// together, so each K and V is read once for all of them. A tile of several tokens needs the keys of its whole chunk,
// so `write` stores those of all such tiles first. A single token brings its own key along.
//
// Which keys are summed in which order depends on positions alone, never on what else is in the step.

#pragma once

#include <cstdint>

#include "rowwise.h"

namespace trtdisagg {

// Plain fields only: a member function would be compiled with each kernel's flags, and the linker keep one of them.
struct AttentionShape {
    int num_blocks;
    int num_layers;
    int num_heads;
    int num_kv_heads;
    int head_dim;
    int tokens_per_block;
    bool pool_is_bf16;
    float scale;    // of the scores
    float softcap;  // scores become c tanh(score / c); 0: none

    // Follow from the above (`complete`).
    int group;            // query heads that share a KV head
    int row_heads;        // heads in a row of qkv
    int tile_tokens;      // tokens in a tile: as many as keep it within kTileRows, at least one
    int64_t head_bytes;   // K and V of one head of one layer of one block
    int64_t layer_bytes;
    int64_t block_bytes;
};

// What differs from layer to layer.
struct LayerAttention {
    Norm q_norm;  // of each head by itself, before rotation
    Norm k_norm;
    const float* cosines;  // [positions][head_dim / 2]; null: no rotation
    const float* sines;
    int window;  // a token sees so many, itself included
};

// Consecutive tokens of one chunk. Token i is row `row + i` of qkv and `out_row + i` of out, and stands at
// `position + i` of its sequence.
struct Tile {
    int row;
    int out_row;
    int num_tokens;
    int position;
    const int32_t* blocks;
};

// One layer of one step.
struct LayerCall {
    AttentionShape shape;
    LayerAttention layer;
    char* pool;  // where this layer of block 0 begins
    const float* qkv;
    float* out;
};

constexpr int kTileRows = 96;       // at most so many (token, head) pairs of queries in a tile
constexpr int kTokensAtOnce = 64;   // keys per pass over many queries
constexpr int kSplitTokens = 128;   // keys per pass over a single token's

// The number of passes over the keys of a token that attends by itself.
inline int num_splits(int position) { return position / kSplitTokens + 1; }

struct AttentionKernels {
    // Keys and values of all KV heads.
    void (*write)(const LayerCall&, const Tile&, float* scratch);
    void (*attend_many)(const LayerCall&, const Tile&, int kv_head, float* scratch);
    // A single token, its key and value written first: all of it, or one split of its keys into `partial`, and later
    // all partials, which lie one behind the other, into `out`.
    void (*attend_one)(const LayerCall&, const Tile&, int kv_head, float* scratch);
    void (*attend_split)(const LayerCall&, const Tile&, int kv_head, int split, float* scratch, float* partial);
    void (*merge_splits)(const LayerCall&, const Tile&, int kv_head, float* scratch, const float* partials);
    // Whether a single token can be computed as such; otherwise it is a tile like others.
    bool (*has_attend_one)(const AttentionShape&);
    int64_t (*scratch_floats)(const AttentionShape&);
    int64_t (*partial_floats)(const AttentionShape&);
};

}  // namespace trtdisagg
