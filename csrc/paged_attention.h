// Attention over the block pool as an object: pool and shape are bound once, a step passes indices only.

#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "attention.h"
#include "kernels.h"
#include "workers.h"

namespace trtdisagg {

// Consecutive tokens of one request in a step; rows of qkv follow the order of the chunks.
struct Chunk {
    int num_tokens;
    int position;    // of its first token
    int64_t table;   // where its block table begins in the step's list of blocks
    int num_logits;  // so many of its last tokens are wanted in the end
};

// What attention has to do in each layer of a step.
//
// A unit is one tile for the heads of one KV head or, where there are fewer of those than keep all threads busy, one
// split of a single token's keys; the last thread that is done with a token merges its splits.
struct AttentionPlan {
    struct Unit {
        int piece;
        int kv_head;
        int split;   // whole: -1
        int token;   // with a split: whose, counted over tokens and heads
    };
    struct Token {
        int64_t partials;  // where they begin
        int num_splits;
    };

    // A token that is all of its chunk is computed as a single one, the last of many is not: so what a row gives does
    // not depend on where its chunk is cut into tiles.
    struct Piece {
        Tile tile;
        bool is_single;
    };

    std::vector<Tile> writes;  // tiles whose keys are stored before anyone attends
    std::vector<Piece> pieces;
    std::vector<Unit> units;
    std::vector<Token> tokens;
    double num_operations = 0;
    int num_out_rows = 0;
};

class PagedAttention {
public:
    // `pool` must outlive the object.
    PagedAttention(const AttentionShape& shape, char* pool, std::shared_ptr<Workers> workers, const std::string& isa);

    // Set the step that the following `run` are about. Throws std::invalid_argument when an index is out of bounds.
    void begin(const std::vector<Chunk>& chunks, std::vector<int32_t> blocks);

    // One layer: normalize and rotate, store K and V of the step's tokens in the pool, attend. `qkv` has a row for each
    // token, `out` too or, with `wanted_only`, for each that is wanted.
    void run(int layer, const LayerAttention& what, const float* qkv, float* out, bool wanted_only);

    const AttentionShape& shape() const { return shape_; }

private:
    void plan(AttentionPlan& plan, const std::vector<Chunk>& chunks, bool wanted_only) const;
    void plan_units(AttentionPlan& plan);
    void run_unit(const LayerCall& call, const AttentionPlan& plan, const AttentionPlan::Unit& unit, float* scratch);

    const AttentionShape shape_;
    char* const pool_;
    const std::shared_ptr<Workers> workers_;
    const AttentionKernels& kernels_;
    const int64_t scratch_floats_;  // per thread
    const int max_split_tokens_;
    std::vector<float> scratch_;
    std::vector<int32_t> blocks_;
    AttentionPlan all_, wanted_;
    std::vector<float> partials_;
    std::vector<std::atomic<int>> num_done_;  // splits, of each token
};

}  // namespace trtdisagg
