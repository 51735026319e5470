// The decoder as Python sees it. Values are made of tensors once, when a model is loaded, and point into them: whoever
// makes them keeps the tensors (engine/native_decoder.py).

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <climits>
#include <functional>
#include <map>
#include <memory>
#include <variant>

#include "bindings.h"
#include "decoder.h"
#include "shared_ranks.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trtdisagg {

namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Embedding = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // of bfloat16 or float32
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Chunks = nb::ndarray<const int64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
using Pairs = nb::ndarray<const int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

Activation activation_of(const std::string& name) {
    static const std::map<std::string, Activation> known = {
        {"silu", Activation::silu}, {"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}};
    const auto found = known.find(name);
    require(found != known.end(), "no such activation");
    return found->second;
}

void init_norm(Norm* self, const Vector& weight, const std::optional<Vector>& bias, float eps) {
    require(!bias || bias->shape(0) == weight.shape(0), "a norm's bias must be as wide as its weight");
    new (self) Norm{int(weight.shape(0)), weight.data(), bias ? bias->data() : nullptr, eps};
}

void init_mlp(Mlp* self, MatrixPointer up, MatrixPointer down, const std::string& activation, bool is_gated) {
    new (self) Mlp{std::move(up), std::move(down), activation_of(activation), is_gated};
}

void init_layer(Layer* self, const Norm& input_norm, MatrixPointer qkv, const std::optional<Norm>& q_norm,
                const std::optional<Norm>& k_norm, const std::optional<std::pair<Table, Table>>& rope,
                std::optional<int> window, MatrixPointer o, const std::optional<Norm>& post_attention_norm,
                const Norm& mlp_norm, std::variant<Mlp, Experts> mlp, const std::optional<Norm>& post_mlp_norm) {
    const Norm none = {};
    new (self) Layer{input_norm,
                     std::move(qkv),
                     q_norm.value_or(none),
                     k_norm.value_or(none),
                     rope ? rope->first.data() : nullptr,
                     rope ? rope->second.data() : nullptr,
                     window.value_or(INT_MAX),
                     std::move(o),
                     post_attention_norm.value_or(none),
                     mlp_norm,
                     std::move(mlp),
                     post_mlp_norm.value_or(none)};
}

// Rows in place, as a torch tensor.
nb::object tensor(const float* rows, int num_rows, int width) {
    const size_t shape[] = {size_t(num_rows), size_t(width)};
    nb::ndarray<nb::pytorch, float> view(const_cast<float*>(rows), 2, shape, nb::handle());
    return nb::cast(view, nb::rv_policy::reference);
}

// Memory that the ranks share, asked without Python in between, or any function of a tensor.
using AddUp = std::variant<std::shared_ptr<SharedRanks>, nb::callable>;

std::function<void(float*, int)> add_up_by(const AddUp& way, int width) {
    if (const auto* shared = std::get_if<std::shared_ptr<SharedRanks>>(&way))
        return [ranks = *shared, width](float* x, int num_rows) { ranks->add_up(x, size_t(num_rows) * size_t(width)); };
    return [f = std::get<nb::callable>(way), width](float* x, int num_rows) {
        nb::gil_scoped_acquire acquired;
        f(tensor(x, num_rows, width));
    };
}

Others others_of(const std::optional<AddUp>& add_up, const std::optional<nb::callable>& gather, int width) {
    require(add_up || !gather, "ranks that gather rows also add them up");
    Others others;
    if (add_up) others.add_up = add_up_by(*add_up, width);
    if (gather)
        others.gather = [f = *gather, width](const float* own, float* all, const Rows& rows, bool wanted_only) {
            nb::gil_scoped_acquire acquired;
            f(tensor(own, rows.own, width), tensor(all, rows.all, width), wanted_only);
        };
    return others;
}

void bind_embedding(Model& model, const Embedding& embedding, size_t width) {
    const nb::dlpack::dtype bf16 = {uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1};
    require(embedding.shape(1) == width, "an embedding that is not as wide as the model");
    require(embedding.dtype() == bf16 || embedding.dtype() == nb::dtype<float>(), "an embedding of another type");
    (embedding.dtype() == bf16 ? reinterpret_cast<const void*&>(model.embedding_bf16)
                               : reinterpret_cast<const void*&>(model.embedding_f32)) = embedding.data();
    model.num_embedded = int(embedding.shape(0));
}

void init_decoder(Decoder* self, uintptr_t pool_address, int num_blocks, int num_heads, int num_kv_heads, int head_dim,
                  int tokens_per_block, bool pool_is_bf16, float attention_scale,
                  std::optional<float> attention_softcap, int vocab_size, int first_token, bool has_embedding,
                  const std::optional<Embedding>& embedding, std::optional<float> embedding_scale,
                  const std::optional<Table>& positions, int max_positions, std::vector<Layer> layers,
                  const std::optional<Norm>& norm, std::optional<MatrixPointer> lm_head,
                  std::optional<float> logit_softcap, const std::optional<AddUp>& add_up,
                  const std::optional<nb::callable>& gather, std::shared_ptr<Workers> workers, const std::string& isa) {
    require(!layers.empty(), "a decoder without layers");
    require(norm.has_value() == lm_head.has_value(), "a norm without lm_head, or the other way round");
    const int width = layers[0].qkv->inputs();
    Model model = {};
    model.vocab_size = vocab_size;
    model.first_token = first_token;
    model.has_embedding = has_embedding;
    require(has_embedding ? embedding || lm_head : !embedding && !positions, "what embeds tokens is not all there");
    if (embedding)
        bind_embedding(model, *embedding, width);
    else if (has_embedding)
        model.num_embedded = (*lm_head)->outputs();
    require(first_token >= 0 && model.num_embedded <= vocab_size - first_token, "more rows than tokens");
    require(!positions || (positions->shape(0) >= size_t(max_positions) && positions->shape(1) == size_t(width)),
            "positions do not fit");
    model.embedding_scale = embedding_scale.value_or(1);
    model.positions = positions ? positions->data() : nullptr;
    model.max_positions = max_positions;
    model.norm = norm.value_or(Norm{});
    model.logit_softcap = logit_softcap.value_or(0);
    AttentionShape shape = {};
    shape.num_blocks = num_blocks;
    shape.num_layers = int(layers.size());
    shape.num_heads = num_heads;
    shape.num_kv_heads = num_kv_heads;
    shape.head_dim = head_dim;
    shape.tokens_per_block = tokens_per_block;
    shape.pool_is_bf16 = pool_is_bf16;
    shape.scale = attention_scale;
    shape.softcap = attention_softcap.value_or(0);
    model.layers = std::move(layers);
    model.lm_head = lm_head.value_or(nullptr);
    new (self) Decoder(std::move(model), shape, reinterpret_cast<char*>(pool_address), others_of(add_up, gather, width),
                       std::move(workers), isa);
}

void run_decoder(Decoder& self, const Indices& tokens, const Chunks& chunks, const Indices& blocks, const Pairs& copies,
                 uintptr_t in, uintptr_t out, int64_t num_out, std::pair<int, int> all_rows,
                 std::pair<int, int> wanted_rows) {
    StepIndices step;
    step.tokens.assign(tokens.data(), tokens.data() + tokens.shape(0));
    step.blocks.assign(blocks.data(), blocks.data() + blocks.shape(0));
    int64_t num_logits = 0;
    for (size_t i = 0; i < chunks.shape(0); ++i) {
        step.chunks.push_back({int(chunks(i, 0)), int(chunks(i, 1)), chunks(i, 2), int(chunks(i, 3))});
        num_logits += chunks(i, 3);
    }
    require(num_out == (self.is_last() ? num_logits : int64_t(tokens.shape(0))), "not room for all rows");
    require(self.is_first() || in != 0 || tokens.shape(0) == 0, "no hidden states to begin with");
    for (size_t i = 0; i < copies.shape(0); ++i) step.copies.push_back({copies(i, 0), copies(i, 1)});
    step.all_rows = {int(tokens.shape(0)), all_rows.first, all_rows.second};
    step.wanted_rows = {int(num_logits), wanted_rows.first, wanted_rows.second};
    nb::gil_scoped_release released;
    self.run(std::move(step), reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out));
}

}  // namespace

void bind_decoder(nb::module_& m) {
    nb::class_<Norm>(m, "Norm").def("__init__", &init_norm, "weight"_a, "bias"_a.none(), "eps"_a);

    nb::class_<Mlp>(m, "Mlp").def("__init__", &init_mlp, "up"_a, "down"_a, "activation"_a, "is_gated"_a);

    nb::class_<Experts>(m, "Experts")
        .def("__init__",
             [](Experts* self, MatrixPointer router, std::vector<Mlp> experts, int first, int num_active,
                bool renormalize) {
                 new (self) Experts{std::move(router), std::move(experts), first, num_active, renormalize};
             },
             "router"_a, "experts"_a, "first"_a, "num_active"_a, "renormalize"_a);

    nb::class_<Layer>(m, "Layer")
        .def("__init__", &init_layer, nb::kw_only(), "input_norm"_a, "qkv"_a, "q_norm"_a.none(), "k_norm"_a.none(),
             "rope"_a.none(), "window"_a.none(), "o"_a, "post_attention_norm"_a.none(), "mlp_norm"_a, "mlp"_a,
             "post_mlp_norm"_a.none());

    nb::class_<Decoder>(m, "Decoder", "Computes steps. What it is made of must outlive it.")
        .def("__init__", &init_decoder, "pool_address"_a, nb::kw_only(), "num_blocks"_a, "num_heads"_a,
             "num_kv_heads"_a, "head_dim"_a, "tokens_per_block"_a, "pool_is_bf16"_a, "attention_scale"_a,
             "attention_softcap"_a.none(), "vocab_size"_a, "first_token"_a, "has_embedding"_a, "embedding"_a.none(),
             "embedding_scale"_a.none(), "positions"_a.none(), "max_positions"_a, "layers"_a, "norm"_a.none(),
             "lm_head"_a.none(), "logit_softcap"_a.none(), "add_up"_a.none(), "gather"_a.none(), "workers"_a,
             "isa"_a = "",
             "`embedding` is None where it is tied to `lm_head`; `add_up(x)`, or SharedRanks in its place, and "
             "`gather(own, all, wanted_only)` ask other ranks, if there are any, for tensors in place.")
        .def("run", &run_decoder, "tokens"_a, "chunks"_a, "blocks"_a, "copies"_a, "in_address"_a, "out_address"_a,
             "num_out"_a, "all_rows"_a, "wanted_rows"_a,
             "A step: int32 tokens of all chunks; `chunks` is int64 [n, 4] of (num_tokens, position, first index in "
             "blocks, num_logits); int32 blocks; `copies` is int64 [n, 2] of (from, to). Reads float32 hidden states "
             "[tokens, width] where there is no embedding. Writes float32 [num_out, own part of the vocabulary], or "
             "where there is no lm_head [num_out, width]. `all_rows`, `wanted_rows`: where this rank's begin among "
             "those of all, and how many they are.");
}

}  // namespace trtdisagg
