"""Llama and what is built like it: RMS norm, rotary attention with shared KV heads, gated SiLU.

Touvron et al., "LLaMA" (2023).
"""

from __future__ import annotations

from trtdisagg.engine.models.decoder import Decoder, Layer
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.usual import gated_mlp, qkv, usual_decoder
from trtdisagg.text.dimensions import ModelDimensions


def llama(dims: ModelDimensions, parts: Parts) -> Decoder:
    rope = parts.rope(dims.head_dim, dims.rope_theta, dims.rope_scaling)
    q_width = dims.num_heads * dims.head_dim

    def layer(at: str) -> Layer:
        return Layer(
            input_norm=parts.norm(f"{at}input_layernorm", dims.hidden_size, dims.rms_norm_eps),
            qkv=qkv(dims, parts, at, bias=dims.attention_bias),
            rope=rope,
            o=parts.linear([f"{at}self_attn.o_proj"], [dims.hidden_size], q_width, bias=dims.attention_bias),
            mlp_norm=parts.norm(f"{at}post_attention_layernorm", dims.hidden_size, dims.rms_norm_eps),
            mlp=gated_mlp(dims, parts, f"{at}mlp.", bias=dims.mlp_bias),
        )

    return usual_decoder(dims, parts, [layer(f"model.layers.{i}.") for i in range(dims.num_layers)])
