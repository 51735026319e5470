"""Llama 1 to 3, and Mistral, which differs by its window: RMS norm, rotary attention with shared KV heads, gated SiLU.

Touvron et al., "LLaMA" (2023); Jiang et al., "Mistral 7B" (2023).
"""

from __future__ import annotations

from trtdisagg.engine.models.decoder import Decoder, Layer
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.usual import gated_mlp, layer_name, usual_decoder, usual_layer, usual_rope
from trtdisagg.text.dimensions import ModelDimensions


def llama(dims: ModelDimensions, parts: Parts) -> Decoder:
    rope, bias = usual_rope(dims, parts), dims.attention_bias

    def layer(i: int) -> Layer:
        mlp = gated_mlp(dims, parts, f"{layer_name(i)}mlp.", bias=dims.mlp_bias)
        return usual_layer(dims, parts, i, rope=rope, mlp=mlp, qkv_bias=bias, o_bias=bias)

    return usual_decoder(dims, parts, parts.each_layer(layer_name, layer))
