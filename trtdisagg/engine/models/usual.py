"""What most families have in common under the same names: a layer with two norms, the gated MLP, the two ends."""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Linear, Mlp, Norm, Rope
from trtdisagg.engine.models.parts import Parts
from trtdisagg.text.dimensions import ModelDimensions

GATED = ("gate_proj", "up_proj", "down_proj")


def layer_name(index: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"model.layers.{index}."


def usual_rope(dims: ModelDimensions, parts: Parts) -> Rope:
    return parts.rope(dims.head_dim, dims.rope_theta, dims.rope_scaling)


def usual_layer(
    dims: ModelDimensions,
    parts: Parts,
    index: int,
    *,
    rope: Rope,
    mlp: Mlp | Experts,
    qkv_bias: bool = False,
    o_bias: bool = False,
    has_head_norms: bool = False,
) -> Layer:
    at, eps = layer_name(index), dims.norm_eps
    head_norms = [parts.norm(f"{at}self_attn.{x}_norm", dims.head_dim, eps) if has_head_norms else None for x in "qk"]
    return Layer(
        input_norm=parts.norm(f"{at}input_layernorm", dims.hidden_size, eps),
        qkv=qkv(dims, parts, index, bias=qkv_bias),
        q_norm=head_norms[0],
        k_norm=head_norms[1],
        rope=rope,
        window=dims.window(index),
        o=output(dims, parts, index, bias=o_bias),
        mlp_norm=parts.norm(f"{at}post_attention_layernorm", dims.hidden_size, eps),
        mlp=mlp,
    )


def qkv(dims: ModelDimensions, parts: Parts, index: int, *, bias: bool = False) -> Linear:
    q, kv = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    names = [f"{layer_name(index)}self_attn.{name}_proj" for name in "qkv"]
    return parts.linear(names, [q, kv, kv], dims.hidden_size, bias=bias)


def output(dims: ModelDimensions, parts: Parts, index: int, *, bias: bool = False) -> Linear:
    names = [f"{layer_name(index)}self_attn.o_proj"]
    return parts.linear(names, [dims.hidden_size], dims.num_heads * dims.head_dim, bias=bias)


def gated_mlp(
    dims: ModelDimensions,
    parts: Parts,
    at: str,
    *,
    inner: int | None = None,
    names: tuple[str, str, str] = GATED,
    bias: bool = False,
) -> Mlp:
    """
    :param at: what the names of its tensors begin with.
    :param inner: its width inside, where it is not the model's `intermediate_size`.
    :param names: of gate, up and down.
    """
    width, inner = dims.hidden_size, inner or dims.intermediate_size
    gate, up, down = (f"{at}{name}" for name in names)
    return Mlp(
        up=parts.linear([gate, up], [inner, inner], width, bias=bias),
        down=parts.linear([down], [width], inner, bias=bias),
        activation=dims.activation,
    )


def experts(dims: ModelDimensions, parts: Parts, at: str, names: tuple[str, str, str] = GATED) -> Experts:
    return Experts(
        router=parts.router(f"{at}gate", dims.num_experts, dims.hidden_size),
        experts=tuple(
            gated_mlp(dims, parts, f"{at}experts.{i}.", inner=dims.expert_size, names=names)
            for i in range(dims.num_experts)
        ),
        num_active=dims.num_active_experts,
        renormalize=dims.norm_topk_prob,
    )


def usual_decoder(dims: ModelDimensions, parts: Parts, layers: Sequence[Layer], *, norm: Norm | None = None) -> Decoder:
    embedding = parts.matrix("model.embed_tokens.weight", (dims.vocab_size, dims.hidden_size))
    return Decoder(
        num_heads=dims.num_heads,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        attention_scale=(dims.query_pre_attn_scalar or dims.head_dim) ** -0.5,
        attention_softcap=dims.attention_softcap,
        embedding=embedding,
        layers=tuple(layers),
        norm=norm or parts.norm("model.norm", dims.hidden_size, dims.norm_eps),
        lm_head=parts.lm_head(embedding, is_tied=dims.tie_word_embeddings),
        logit_softcap=dims.logit_softcap,
    )
