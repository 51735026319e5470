// Attention over the block pool: what the binding and the kernels share.
//
//   pool    [block][layer][kv_head][k|v][token][head_dim]
//   qkv     [token][heads: queries, keys, values][head_dim]      one row per token of the step, before rotation
//   out     [token][query head][head_dim]
//
// A step is cut into tiles, consecutive tokens of one chunk. First `write` rotates and stores keys and values of all
// tiles; then `attend` computes one tile for the query heads that share one KV head, so each K and V is read once for
// all of them.

#pragma once

#include <cstdint>

namespace trtdisagg {

// Plain fields only: a member function would be compiled with each kernel's flags, and the linker keep one of them.
struct AttentionShape {
    int num_blocks;
    int num_layers;
    int num_heads;
    int num_kv_heads;
    int head_dim;
    int tokens_per_block;
    int max_positions;
    bool pool_is_bf16;
    float scale;

    // Follow from the above (`complete`).
    int group;            // query heads that share a KV head
    int row_heads;        // heads in a row of qkv
    int tile_tokens;      // tokens in a tile: as many as keep it within kTileRows, at least one
    int64_t head_bytes;   // K and V of one head of one layer of one block
    int64_t layer_bytes;
    int64_t block_bytes;
};

// Consecutive tokens of one chunk. Token i is row `row + i` of qkv and stands at `position + i` of its sequence.
struct Tile {
    int row;
    int num_tokens;
    int position;
    const int32_t* blocks;
};

// One layer of one step.
struct LayerCall {
    AttentionShape shape;
    char* pool;  // where this layer of block 0 begins
    const float* cosines;  // [max_positions][head_dim / 2]
    const float* sines;
    const void* qkv;
    void* out;
    bool rows_are_bf16;
};

constexpr int kTileRows = 96;     // at most so many (token, head) pairs of queries in a tile
constexpr int kTokensAtOnce = 64;  // keys per pass of the online softmax

struct AttentionKernels {
    void (*write)(const LayerCall&, const Tile&);
    void (*attend)(const LayerCall&, const Tile&, int kv_head, float* scratch);
    int64_t (*scratch_floats)(const AttentionShape&);
};

}  // namespace trtdisagg
