#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace trtdisagg {

namespace {

// An MLP is computed for so many rows at once, so that what lies between its products stays in the cache.
constexpr int kMlpRows = 512;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

bool fits(const Norm& norm, int width) { return !norm.weight || norm.width == width; }

void check_mlp(const Mlp& m, int width) {
    require(m.up->inputs() == width && m.down->outputs() == width, "an MLP is not as wide as the model");
    require(m.up->outputs() == m.down->inputs() * (m.is_gated ? 2 : 1), "the parts of an MLP do not fit together");
}

int num_rows_of(const std::vector<Chunk>& chunks) {
    int64_t rows = 0;
    for (const Chunk& c : chunks) rows += c.num_tokens;
    require(rows <= INT32_MAX, "too many tokens");
    return int(rows);
}

}  // namespace

Decoder::Decoder(Model model, const AttentionShape& shape, char* pool, Others others, std::shared_ptr<Workers> workers,
                 const std::string& isa)
    : model_(std::move(model)), workers_(std::move(workers)), kernels_(*pick_kernels(isa).rowwise),
      attention_(shape, pool, workers_, isa), others_(std::move(others)), pool_(pool),
      width_(model_.layers.empty() ? 0 : model_.layers[0].qkv->inputs()) {
    check_model();
}

void Decoder::check_model() const {
    const AttentionShape& s = attention_.shape();
    require(int(model_.layers.size()) == s.num_layers, "the pool has not as many layers as the model");
    require(!is_last() || (model_.norm.weight && fits(model_.norm, width_) && model_.lm_head->inputs() == width_),
            "the last norm and lm_head are not as wide as the model");
    require(is_last() || !model_.norm.weight, "a norm without lm_head");
    for (const Layer& layer : model_.layers) {
        require(layer.qkv->inputs() == width_ && layer.qkv->outputs() == s.row_heads * s.head_dim,
                "qkv does not fit model and pool");
        require(layer.o->inputs() == s.num_heads * s.head_dim && layer.o->outputs() == width_, "o does not fit");
        require(layer.input_norm.weight && layer.mlp_norm.weight, "a layer lacks a norm");
        for (const Norm* n : {&layer.input_norm, &layer.mlp_norm, &layer.post_attention_norm, &layer.post_mlp_norm})
            require(fits(*n, width_), "a norm is not as wide as the model");
        require(fits(layer.q_norm, s.head_dim) && fits(layer.k_norm, s.head_dim), "a norm is not as wide as a head");
        require(layer.window > 0, "a window must show something");
        if (const Mlp* mlp = std::get_if<Mlp>(&layer.mlp)) {
            check_mlp(*mlp, width_);
        } else {
            const Experts& e = std::get<Experts>(layer.mlp);
            require(e.router->inputs() == width_ && e.first >= 0 &&
                        (others_.add_up ? e.first + int(e.experts.size()) <= e.router->outputs()
                                        : e.first == 0 && int(e.experts.size()) == e.router->outputs()),
                    "the router has not as many results as there are experts");
            require(e.num_active > 0 && e.num_active <= e.router->outputs(), "more active experts than there are");
            for (const Mlp& m : e.experts) check_mlp(m, width_);
        }
    }
}

void Decoder::check_step(const StepIndices& step) const {
    require(num_rows_of(step.chunks) == int(step.tokens.size()), "not as many tokens as the chunks have");
    for (int32_t token : step.tokens)
        require(token >= 0 && token < model_.vocab_size, "token outside the vocabulary");
    for (const Rows& rows : {step.all_rows, step.wanted_rows})
        require(rows.start >= 0 && rows.all - rows.own >= rows.start, "fewer rows of all ranks than of this one");
    for (const Chunk& c : step.chunks)
        require(int64_t(c.position) + c.num_tokens <= model_.max_positions, "position outside the model's range");
    for (const Copy& c : step.copies)
        for (int64_t block : {c.from, c.to})
            require(block >= 0 && block < attention_.shape().num_blocks, "block index outside the pool");
}

void Decoder::run(StepIndices step, const float* in, float* out) {
    check_step(step);
    attention_.begin(step.chunks, std::move(step.blocks));
    copy_blocks(step.copies);
    begin(step, in);
    Rows rows = step.all_rows;
    const int last = int(model_.layers.size()) - 1;
    const Norm none = {};
    for (int i = 0; i <= last; ++i) {
        const Layer& layer = model_.layers[i];
        const bool wanted_only = i == last && is_last();
        norm(i ? model_.layers[i - 1].post_mlp_norm : none, layer.input_norm, rows.own, i > 0);
        attend(i, rows.own, wanted_only);
        if (wanted_only) {  // nobody needs the others any more
            keep_wanted(step.chunks);
            rows = step.wanted_rows;
        }
        if (rows.all == 0) return;
        layer.o->run(attended_.room(0), delta_.room(0), rows.own);
        add_up(delta_.room(0), rows.own);
        norm(layer.post_attention_norm, layer.mlp_norm, rows.own, true);
        if (const Mlp* m = std::get_if<Mlp>(&layer.mlp)) {
            mlp(*m, normed_.room(0), delta_.room(0), rows.own);
            add_up(delta_.room(0), rows.own);
        } else {
            mix(std::get<Experts>(layer.mlp), rows, wanted_only);
        }
    }
    norm(model_.layers[last].post_mlp_norm, model_.norm, rows.own, true);
    if (is_last())
        logits(out, rows.own);
    else
        std::copy_n(x_.room(0), int64_t(rows.own) * width_, out);
}

void Decoder::logits(float* out, int num_rows) {
    const int vocab = model_.lm_head->outputs();
    model_.lm_head->run(normed_.room(0), out, num_rows);
    if (model_.logit_softcap != 0)
        share(num_rows, 32.0 * vocab, [&](int begin, int end) {
            kernels_.softcap(out + int64_t(begin) * vocab, int64_t(end - begin) * vocab, model_.logit_softcap);
        });
}

void Decoder::copy_blocks(const std::vector<Copy>& copies) {
    const int64_t size = attention_.shape().block_bytes;
    for (const Copy& c : copies) std::memcpy(pool_ + c.to * size, pool_ + c.from * size, size);
}

void Decoder::begin(const StepIndices& step, const float* in) {
    const int64_t rows = int64_t(step.tokens.size());
    float* x = x_.room(rows * width_);
    delta_.room(rows * width_);
    normed_.room(rows * width_);
    if (!is_first()) return void(std::copy_n(in, rows * width_, x));
    embed(step);
    add_up(x, int(rows));
    if (model_.positions) add_positions(step);
}

void Decoder::embed(const StepIndices& step) {
    float* x = x_.room(0);
    share(int(step.tokens.size()), 8.0 * width_, [&](int begin, int end) {
        for (int r = begin; r < end; ++r) embed_token(step.tokens[r], x + int64_t(r) * width_);
    });
}

void Decoder::embed_token(int token, float* out) const {
    const int row = token - model_.first_token;
    if (row < 0 || row >= model_.num_embedded) return void(std::memset(out, 0, sizeof(float) * width_));
    const int64_t at = int64_t(row) * width_;
    if (model_.embedding_bf16)
        kernels_.widen(model_.embedding_bf16 + at, width_, out);
    else if (model_.embedding_f32)
        std::memcpy(out, model_.embedding_f32 + at, sizeof(float) * width_);
    else
        model_.lm_head->row(row, out);
    for (int i = 0; i < width_ && model_.embedding_scale != 1; ++i) out[i] *= model_.embedding_scale;
}

void Decoder::add_positions(const StepIndices& step) {
    float* x = x_.room(0);
    for (const Chunk& c : step.chunks)
        for (int i = 0; i < c.num_tokens; ++i, x += width_)
            kernels_.add_scaled(model_.positions + int64_t(c.position + i) * width_, width_, 1, x);
}

// From `normed_` to `attended_`.
void Decoder::attend(int layer, int num_rows, bool wanted_only) {
    const Layer& l = model_.layers[layer];
    float* qkv = qkv_.room(int64_t(num_rows) * l.qkv->outputs());
    float* out = attended_.room(int64_t(num_rows) * l.o->inputs());
    l.qkv->run(normed_.room(0), qkv, num_rows);
    attention_.run(layer, {l.q_norm, l.k_norm, l.cosines, l.sines, l.window}, qkv, out, wanted_only);
}

// Moves the wanted rows of `x_` together.
void Decoder::keep_wanted(const std::vector<Chunk>& chunks) {
    float* x = x_.room(0);
    int64_t end = 0, kept = 0;
    for (const Chunk& c : chunks) {
        end += c.num_tokens;
        std::memmove(x + kept * width_, x + (end - c.num_logits) * width_, sizeof(float) * c.num_logits * width_);
        kept += c.num_logits;
    }
}

// x += post(delta), then `normed_` = norm(x).
void Decoder::norm(const Norm& post, const Norm& norm, int num_rows, bool has_delta) {
    const NormCall call = {width_, x_.room(0), has_delta ? delta_.room(0) : nullptr, post, norm, normed_.room(0)};
    share(num_rows, 12.0 * width_, [&](int begin, int end) { kernels_.norm(call, begin, end); });
}

// Of parts that ranks have by dividing heads and MLPs.
void Decoder::add_up(float* x, int num_rows) {
    if (others_.divide_heads() && num_rows > 0) others_.add_up(x, num_rows);
}

void Decoder::mlp(const Mlp& m, const float* x, float* out, int num_rows) {
    const int64_t inner = m.down->inputs(), outer = m.up->outputs();
    for (int first = 0; first < num_rows; first += kMlpRows) {
        const int count = std::min(kMlpRows, num_rows - first);
        float* up = inner_.room(outer * std::min(num_rows, kMlpRows));
        float* activated = activated_.room(inner * std::min(num_rows, kMlpRows));
        m.up->run(x + int64_t(first) * width_, up, count);
        const ActivationCall call = {m.activation, m.is_gated, int(inner), up, activated};
        share(count, 40.0 * inner, [&](int begin, int end) { kernels_.activate(call, begin, end); });
        m.down->run(activated, out + int64_t(first) * width_, count);
    }
}

// Calls f(begin, end) for all rows, on as many threads as they are worth.
template <typename F>
void Decoder::share(int num_rows, double operations_per_row, const F& f) {
    const int threads = threads_worth(num_rows * operations_per_row, workers_->num_threads());
    const int num_tasks = threads == 1 ? 1 : std::min(num_rows, 4 * threads);
    workers_->run(num_tasks, threads, [&](int task, int) {
        f(int(int64_t(num_rows) * task / num_tasks), int(int64_t(num_rows) * (task + 1) / num_tasks));
    });
}

}  // namespace trtdisagg
