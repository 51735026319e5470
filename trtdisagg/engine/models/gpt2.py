"""GPT-2: layer norms, learned positions, a plain MLP, and matrices stored as [inputs, outputs].

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from __future__ import annotations

import torch

from trtdisagg.engine.models.decoder import Decoder, Layer, Linear, Mlp, Norm
from trtdisagg.engine.models.parts import Parts
from trtdisagg.text.dimensions import ModelDimensions


def gpt2(dims: ModelDimensions, parts: Parts) -> Decoder:
    width, inner = dims.hidden_size, dims.intermediate_size

    def norm(name: str) -> Norm:
        return parts.norm(name, width, dims.norm_eps, bias=True)

    def linear(name: str, num_outputs: int, num_inputs: int) -> Linear:
        return parts.linear([name], [num_outputs], num_inputs, bias=True, is_transposed=True)

    def layer(i: int) -> Layer:
        at = f"h.{i}."
        up, down = linear(f"{at}mlp.c_fc", inner, width), linear(f"{at}mlp.c_proj", width, inner)
        return Layer(
            input_norm=norm(f"{at}ln_1"),
            qkv=linear(f"{at}attn.c_attn", 3 * width, width),
            o=linear(f"{at}attn.c_proj", width, width),
            mlp_norm=norm(f"{at}ln_2"),
            mlp=Mlp(up=up, down=down, activation=dims.activation, is_gated=False),
        )

    embedding = parts.matrix("wte.weight", (dims.vocab_size, width))
    return Decoder(
        num_heads=dims.num_heads,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        attention_scale=dims.head_dim**-0.5,
        embedding=embedding,
        positions=parts.matrix("wpe.weight", (dims.max_positions, width), dtype=torch.float32),
        layers=parts.each_layer(dims.num_layers, layer),
        norm=norm("ln_f"),
        lm_head=parts.lm_head(embedding, is_tied=dims.tie_word_embeddings),
    )
