"""What most families have in common under the same names: the fused projections, the gated MLP, the two ends."""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.engine.models.decoder import Decoder, Layer, Linear, Mlp
from trtdisagg.engine.models.parts import Parts
from trtdisagg.text.dimensions import ModelDimensions


def qkv(dims: ModelDimensions, parts: Parts, at: str, *, bias: bool = False) -> Linear:
    """
    :param at: the layer's name, with the dot.
    """
    q, kv = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    names = [f"{at}self_attn.{name}_proj" for name in "qkv"]
    return parts.linear(names, [q, kv, kv], dims.hidden_size, bias=bias)


def gated_mlp(dims: ModelDimensions, parts: Parts, at: str, *, bias: bool = False) -> Mlp:
    width, inner = dims.hidden_size, dims.intermediate_size
    up = parts.linear([f"{at}{name}_proj" for name in ("gate", "up")], [inner, inner], width, bias=bias)
    return Mlp(up=up, down=parts.linear([f"{at}down_proj"], [width], inner, bias=bias))


def usual_decoder(dims: ModelDimensions, parts: Parts, layers: Sequence[Layer]) -> Decoder:
    embedding = parts.matrix("model.embed_tokens.weight", (dims.vocab_size, dims.hidden_size))
    if dims.tie_word_embeddings:
        parts.ignore("lm_head.weight")
        head = Linear(weight=embedding)
    else:
        head = parts.linear(["lm_head"], [dims.vocab_size], dims.hidden_size)
    return Decoder(
        num_heads=dims.num_heads,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        attention_scale=dims.head_dim**-0.5,
        embedding=embedding,
        layers=tuple(layers),
        norm=parts.norm("model.norm", dims.hidden_size, dims.rms_norm_eps),
        lm_head=head,
    )
