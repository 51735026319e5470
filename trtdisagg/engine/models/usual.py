"""What most families have in common under the same names: a layer with two norms, the gated MLP, the two ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trtdisagg.engine.models.cuts import Cut
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
        qkv=qkv(parts, index, bias=qkv_bias),
        q_norm=head_norms[0],
        k_norm=head_norms[1],
        rope=rope,
        window=dims.window(index),
        o=output(parts, index, bias=o_bias),
        mlp_norm=parts.norm(f"{at}post_attention_layernorm", dims.hidden_size, eps),
        mlp=mlp,
    )


def qkv(parts: Parts, index: int, *, bias: bool = False) -> Linear:
    cut = parts.cut
    names = [f"{layer_name(index)}self_attn.{name}_proj" for name in "qkv"]
    return parts.linear(names, [cut.q, cut.kv, cut.kv], cut.width, bias=bias)


def output(parts: Parts, index: int, *, bias: bool = False) -> Linear:
    return parts.linear([f"{layer_name(index)}self_attn.o_proj"], [parts.cut.width], parts.cut.q, bias=bias)


def gated_mlp(
    dims: ModelDimensions,
    parts: Parts,
    at: str,
    *,
    inner: Cut | None = None,
    names: tuple[str, str, str] = GATED,
    bias: bool = False,
) -> Mlp:
    """
    :param at: what the names of its tensors begin with.
    :param inner: its width inside, where it is not the model's `intermediate_size`.
    :param names: of gate, up and down.
    """
    width, inner = parts.cut.width, inner or parts.cut.inner
    gate, up, down = (f"{at}{name}" for name in names)
    return Mlp(
        up=parts.linear([gate, up], [inner, inner], width, bias=bias),
        down=parts.linear([down], [width], inner, bias=bias),
        activation=dims.activation,
    )


def experts(dims: ModelDimensions, parts: Parts, at: str, names: tuple[str, str, str] = GATED) -> Experts:
    own = parts.share.experts
    for i in set(range(dims.num_experts)) - set(own):
        parts.leave(f"{at}experts.{i}.")
    return Experts(
        router=parts.router(f"{at}gate", dims.num_experts),
        experts=tuple(gated_mlp(dims, parts, f"{at}experts.{i}.", inner=parts.cut.expert, names=names) for i in own),
        first=own.start,
        num_active=dims.num_active_experts,
        renormalize=dims.norm_topk_prob,
    )


def usual_decoder(
    dims: ModelDimensions, parts: Parts, layers: Sequence[Layer], *, norm: Callable[[str], Norm] | None = None
) -> Decoder:
    """
    :param norm: reads the last norm, where it is not as usual.
    """
    embedding = parts.embedding("model.embed_tokens")
    norm = norm or (lambda name: parts.norm(name, dims.hidden_size, dims.norm_eps))
    return Decoder(
        num_heads=len(parts.share.heads),
        num_kv_heads=len(parts.share.kv_heads),
        head_dim=dims.head_dim,
        attention_scale=(dims.query_pre_attn_scalar or dims.head_dim) ** -0.5,
        attention_softcap=dims.attention_softcap,
        vocab_size=dims.vocab_size,
        first_token=parts.share.vocab.start,
        embedding=embedding,
        layers=tuple(layers),
        norm=parts.last_norm("model.norm", norm),
        lm_head=parts.lm_head("model.embed_tokens", embedding, is_tied=dims.tie_word_embeddings),
        logit_softcap=dims.logit_softcap,
    )
