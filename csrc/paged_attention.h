// Attention over the block pool as an object: pool, shape and rotation are bound once, a step passes indices only.

#pragma once

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
};

class PagedAttention {
public:
    // `pool`, `cosines` and `sines` must outlive the object.
    PagedAttention(const AttentionShape& shape, char* pool, const float* cosines, const float* sines,
                   std::shared_ptr<Workers> workers, const std::string& isa);

    // Set the step that the following `run` are about. Throws std::invalid_argument when an index is out of bounds.
    void begin(const std::vector<Chunk>& chunks, std::vector<int32_t> blocks);

    // One layer: rotate, store K and V of the step's tokens in the pool, then attend. `qkv` and `out` have num_rows()
    // rows.
    void run(int layer, const void* qkv, void* out, bool rows_are_bf16);

    const AttentionShape& shape() const { return shape_; }
    int num_rows() const { return num_rows_; }

private:
    void add_tiles(const Chunk& chunk);

    const AttentionShape shape_;
    char* const pool_;
    const float* const cosines_;
    const float* const sines_;
    const std::shared_ptr<Workers> workers_;
    const AttentionKernels& kernels_;
    const int64_t scratch_floats_;  // per thread
    std::vector<float> scratch_;
    std::vector<int32_t> blocks_;
    std::vector<Tile> tiles_;
    int num_rows_ = 0;
    double num_operations_ = 0;  // of one layer
};

}  // namespace trtdisagg
