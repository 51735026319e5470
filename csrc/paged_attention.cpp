#include "paged_attention.h"

#include <algorithm>
#include <stdexcept>

namespace trtdisagg {

namespace {

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

AttentionShape complete(AttentionShape s) {
    require(s.num_blocks > 0 && s.num_layers > 0 && s.num_kv_heads > 0 && s.tokens_per_block > 0, "empty pool");
    require(s.num_heads > 0 && s.num_heads % s.num_kv_heads == 0, "query heads must be a multiple of KV heads");
    require(s.head_dim > 0 && s.head_dim % 2 == 0, "head_dim must be even");
    s.group = s.num_heads / s.num_kv_heads;
    s.row_heads = s.num_heads + 2 * s.num_kv_heads;
    s.tile_tokens = std::max(1, kTileRows / s.group);
    s.head_bytes = 2LL * s.tokens_per_block * s.head_dim * (s.pool_is_bf16 ? 2 : 4);
    s.layer_bytes = s.num_kv_heads * s.head_bytes;
    s.block_bytes = s.num_layers * s.layer_bytes;
    return s;
}

}  // namespace

PagedAttention::PagedAttention(const AttentionShape& shape, char* pool, const float* cosines, const float* sines,
                               std::shared_ptr<Workers> workers, const std::string& isa)
    : shape_(complete(shape)), pool_(pool), cosines_(cosines), sines_(sines), workers_(std::move(workers)),
      kernels_(*pick_kernels(isa).attention), scratch_floats_(kernels_.scratch_floats(shape_) + 16),
      scratch_(scratch_floats_ * workers_->num_threads()) {}

void PagedAttention::begin(const std::vector<Chunk>& chunks, std::vector<int32_t> blocks) {
    tiles_.clear();
    num_rows_ = 0;
    num_operations_ = 0;
    blocks_ = std::move(blocks);
    for (int32_t b : blocks_) require(b >= 0 && b < shape_.num_blocks, "block index outside the pool");
    for (const Chunk& c : chunks) {
        const int64_t end = int64_t(c.position) + c.num_tokens, per_block = shape_.tokens_per_block;
        require(c.num_tokens > 0, "a chunk without tokens");
        require(c.position >= 0 && end <= shape_.max_positions, "position outside the model's range");
        require(c.table >= 0 && c.table + (end + per_block - 1) / per_block <= int64_t(blocks_.size()),
                "block table too short");
        add_tiles(c);
    }
    // The tiles with most keys first, so that no thread is left with a long one at the end.
    const auto has_more_keys = [](const Tile& a, const Tile& b) { return a.position > b.position; };
    std::stable_sort(tiles_.begin(), tiles_.end(), has_more_keys);
}

void PagedAttention::add_tiles(const Chunk& c) {
    for (int i = 0; i < c.num_tokens; i += shape_.tile_tokens) {
        const int count = std::min(shape_.tile_tokens, c.num_tokens - i);
        tiles_.push_back({num_rows_ + i, count, c.position + i, blocks_.data() + c.table});
        num_operations_ += 4.0 * count * shape_.num_heads * shape_.head_dim * (c.position + i + count);
    }
    num_rows_ += c.num_tokens;
}

void PagedAttention::run(int layer, const void* qkv, void* out, bool rows_are_bf16) {
    require(layer >= 0 && layer < shape_.num_layers, "no such layer");
    const LayerCall call = {shape_,  pool_ + layer * shape_.layer_bytes, cosines_, sines_, qkv, out, rows_are_bf16};
    const int num_tiles = int(tiles_.size()), threads = threads_worth(num_operations_, workers_->num_threads());
    workers_->run(num_tiles, threads, [&](int i, int) { kernels_.write(call, tiles_[i]); });
    workers_->run(num_tiles * shape_.num_kv_heads, threads, [&](int i, int thread) {
        float* scratch = scratch_.data() + thread * scratch_floats_;
        kernels_.attend(call, tiles_[i / shape_.num_kv_heads], i % shape_.num_kv_heads, scratch);
    });
}

}  // namespace trtdisagg
