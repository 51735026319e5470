"""Gemma 2 and the text part of Gemma 3: norms around each half of a layer, most layers with a window.

Gemma 2 softcaps its scores and logits; Gemma 3 normalizes each head instead, and its layers with a window turn by a
base of their own. Norms multiply by 1 + w. Gemma team, "Gemma 2" (2024), "Gemma 3 Technical Report" (2025).
"""

from __future__ import annotations

import dataclasses

from trtdisagg.engine.models.decoder import Decoder, Layer, Norm
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.usual import gated_mlp, layer_name, output, qkv, usual_decoder, usual_rope
from trtdisagg.text.dimensions import ModelDimensions


def gemma(dims: ModelDimensions, parts: Parts) -> Decoder:
    rope = local_rope = usual_rope(dims, parts)
    if dims.local_rope_theta is not None:
        local_rope = parts.rope(dims.head_dim, dims.local_rope_theta)
    has_head_norms = dims.architecture == "gemma3"

    def norm(name: str, width: int) -> Norm:
        return parts.norm(name, width, dims.norm_eps, plus_one=True)

    def layer(i: int) -> Layer:
        at, width, window = layer_name(i), dims.hidden_size, dims.window(i)
        return Layer(
            input_norm=norm(f"{at}input_layernorm", width),
            qkv=qkv(parts, i, bias=dims.attention_bias),
            q_norm=norm(f"{at}self_attn.q_norm", dims.head_dim) if has_head_norms else None,
            k_norm=norm(f"{at}self_attn.k_norm", dims.head_dim) if has_head_norms else None,
            rope=rope if window is None else local_rope,
            window=window,
            o=output(parts, i, bias=dims.attention_bias),
            post_attention_norm=norm(f"{at}post_attention_layernorm", width),
            mlp_norm=norm(f"{at}pre_feedforward_layernorm", width),
            mlp=gated_mlp(dims, parts, f"{at}mlp."),
            post_mlp_norm=norm(f"{at}post_feedforward_layernorm", width),
        )

    layers = parts.each_layer(layer_name, layer)
    decoder = usual_decoder(dims, parts, layers, norm=lambda name: norm(name, dims.hidden_size))
    return dataclasses.replace(decoder, embedding_scale=dims.hidden_size**0.5)
