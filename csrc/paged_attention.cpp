#include "paged_attention.h"

#include <algorithm>
#include <stdexcept>

namespace trtdisagg {

namespace {

// Fewer units than so many a thread leave one of them waiting for another at the end.
constexpr int kUnitsPerThread = 4;

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

PagedAttention::PagedAttention(const AttentionShape& shape, char* pool, std::shared_ptr<Workers> workers,
                               const std::string& isa)
    : shape_(complete(shape)), pool_(pool), workers_(std::move(workers)), kernels_(*pick_kernels(isa).attention),
      scratch_floats_(kernels_.scratch_floats(shape_)),
      max_split_tokens_(workers_->num_threads() > 1 ? kUnitsPerThread * workers_->num_threads() : 0),
      scratch_(scratch_floats_ * workers_->num_threads()), num_done_(max_split_tokens_) {}

void PagedAttention::begin(const std::vector<Chunk>& chunks, std::vector<int32_t> blocks) {
    blocks_ = std::move(blocks);
    for (int32_t b : blocks_) require(b >= 0 && b < shape_.num_blocks, "block index outside the pool");
    for (const Chunk& c : chunks) {
        const int64_t end = int64_t(c.position) + c.num_tokens, per_block = shape_.tokens_per_block;
        require(c.num_tokens > 0, "a chunk without tokens");
        require(c.num_logits >= 0 && c.num_logits <= c.num_tokens, "logits of more tokens than a chunk has");
        require(c.position >= 0, "a negative position");
        require(c.table >= 0 && c.table + (end + per_block - 1) / per_block <= int64_t(blocks_.size()),
                "block table too short");
    }
    plan(all_, chunks, false);
    plan(wanted_, chunks, true);
    plan_units(all_);
    plan_units(wanted_);
}

void PagedAttention::plan(AttentionPlan& plan, const std::vector<Chunk>& chunks, bool wanted_only) const {
    plan = {};
    int row = 0;
    const auto each_tile = [&](const Chunk& c, int first, const auto& f) {
        for (int i = first; i < c.num_tokens; i += shape_.tile_tokens) {
            const int count = std::min(shape_.tile_tokens, c.num_tokens - i);
            f(Tile{row + i, plan.num_out_rows + i - first, count, c.position + i, blocks_.data() + c.table});
        }
    };
    for (const Chunk& c : chunks) {
        const int first = wanted_only ? c.num_tokens - c.num_logits : 0, num_wanted = c.num_tokens - first;
        const bool is_single = c.num_tokens == 1 && kernels_.has_attend_one(shape_);
        if (!is_single || num_wanted == 0) each_tile(c, 0, [&](const Tile& t) { plan.writes.push_back(t); });
        each_tile(c, first, [&](const Tile& t) { plan.pieces.push_back({t, is_single}); });
        row += c.num_tokens;
        plan.num_out_rows += num_wanted;
        plan.num_operations += 4.0 * num_wanted * shape_.num_heads * shape_.head_dim * (c.position + c.num_tokens);
    }
}

void PagedAttention::plan_units(AttentionPlan& plan) {
    // The tiles with most to do first, so that no thread is left with a long one at the end.
    const auto work = [](const Tile& t) { return int64_t(t.position + t.num_tokens) * t.num_tokens; };
    std::stable_sort(plan.pieces.begin(), plan.pieces.end(),
                     [&](const auto& a, const auto& b) { return work(a.tile) > work(b.tile); });
    const bool splits = int(plan.pieces.size()) * shape_.num_kv_heads < max_split_tokens_;
    int64_t num_partials = 0;
    for (int i = 0; i < int(plan.pieces.size()); ++i) {
        const auto& [tile, is_single] = plan.pieces[i];
        const int num_parts = splits && is_single ? num_splits(tile.position) : 1;
        for (int head = 0; head < shape_.num_kv_heads; ++head) {
            for (int part = 0; part < num_parts; ++part)
                plan.units.push_back({i, head, num_parts > 1 ? part : -1, int(plan.tokens.size())});
            if (num_parts == 1) continue;
            plan.tokens.push_back({num_partials, num_parts});
            num_partials += num_parts * kernels_.partial_floats(shape_);
        }
    }
    if (num_partials > int64_t(partials_.size())) partials_.resize(num_partials);
}

void PagedAttention::run(int layer, const LayerAttention& what, const float* qkv, float* out, bool wanted_only) {
    const AttentionPlan& plan = wanted_only ? wanted_ : all_;
    const LayerCall call = {shape_, what, pool_ + layer * shape_.layer_bytes, qkv, out};
    const auto scratch = [&](int thread) { return scratch_.data() + thread * scratch_floats_; };
    const int threads = threads_worth(plan.num_operations, workers_->num_threads());
    for (std::atomic<int>& n : num_done_) n.store(0, std::memory_order_relaxed);
    if (!plan.writes.empty())
        workers_->run(int(plan.writes.size()), workers_->num_threads(),
                      [&](int i, int thread) { kernels_.write(call, plan.writes[i], scratch(thread)); });
    if (!plan.units.empty())
        workers_->run(int(plan.units.size()), threads,
                      [&](int i, int thread) { run_unit(call, plan, plan.units[i], scratch(thread)); });
}

void PagedAttention::run_unit(const LayerCall& call, const AttentionPlan& plan, const AttentionPlan::Unit& unit,
                              float* scratch) {
    const auto& [tile, is_single] = plan.pieces[unit.piece];
    if (unit.split < 0)
        return (is_single ? kernels_.attend_one : kernels_.attend_many)(call, tile, unit.kv_head, scratch);
    const AttentionPlan::Token& token = plan.tokens[unit.token];
    float* partials = partials_.data() + token.partials;
    float* partial = partials + unit.split * kernels_.partial_floats(shape_);
    kernels_.attend_split(call, tile, unit.kv_head, unit.split, scratch, partial);
    if (++num_done_[unit.token] == token.num_splits)
        kernels_.merge_splits(call, tile, unit.kv_head, scratch, partials);
}

}  // namespace trtdisagg
