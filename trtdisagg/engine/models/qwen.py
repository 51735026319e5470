"""Qwen 2 and 2.5 (queries, keys and values have a bias), 3 (each head is normalized), and 3 with experts.

Qwen team, "Qwen2 Technical Report" (2024), "Qwen3 Technical Report" (2025).
"""

from __future__ import annotations

from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Mlp
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.usual import experts, gated_mlp, layer_name, usual_decoder, usual_layer, usual_rope
from trtdisagg.text.dimensions import ModelDimensions


def qwen2(dims: ModelDimensions, parts: Parts) -> Decoder:
    rope = usual_rope(dims, parts)

    def layer(i: int) -> Layer:
        mlp = gated_mlp(dims, parts, f"{layer_name(i)}mlp.")
        return usual_layer(dims, parts, i, rope=rope, mlp=mlp, qkv_bias=True)

    return usual_decoder(dims, parts, parts.each_layer(layer_name, layer))


def qwen3(dims: ModelDimensions, parts: Parts) -> Decoder:
    """Also with experts, in all layers but the dense ones."""
    rope, bias = usual_rope(dims, parts), dims.attention_bias

    def layer(i: int) -> Layer:
        mlp = _mlp(dims, parts, i)
        return usual_layer(dims, parts, i, rope=rope, mlp=mlp, qkv_bias=bias, o_bias=bias, has_head_norms=True)

    return usual_decoder(dims, parts, parts.each_layer(layer_name, layer))


def _mlp(dims: ModelDimensions, parts: Parts, index: int) -> Mlp | Experts:
    at = f"{layer_name(index)}mlp."
    return experts(dims, parts, at) if dims.has_experts(index) else gated_mlp(dims, parts, at)
