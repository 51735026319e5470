"""GPT-2: layer norms, learned positions, a plain MLP, and matrices stored as [inputs, outputs].

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from trtdisagg.engine.models.cuts import Cut, whole
from trtdisagg.engine.models.decoder import Decoder, Layer, Linear, Mlp, Norm
from trtdisagg.engine.models.parts import Parts
from trtdisagg.text.dimensions import ModelDimensions


def gpt2(dims: ModelDimensions, parts: Parts) -> Decoder:
    cut, width = parts.cut, dims.hidden_size
    thirds = [cut.q.within(3 * width, i * width) for i in range(3)]

    def norm(name: str) -> Norm:
        return parts.norm(name, width, dims.norm_eps, bias=True)

    def linear(name: str, outputs: list[Cut], inputs: Cut) -> Linear:
        return parts.linear([name] * len(outputs), outputs, inputs, bias=True, is_transposed=True)

    def layer(i: int) -> Layer:
        at = layer_name(i)
        up, down = linear(f"{at}mlp.c_fc", [cut.inner], cut.width), linear(f"{at}mlp.c_proj", [cut.width], cut.inner)
        return Layer(
            input_norm=norm(f"{at}ln_1"),
            qkv=linear(f"{at}attn.c_attn", thirds, cut.width),
            o=linear(f"{at}attn.c_proj", [cut.width], cut.q),
            mlp_norm=norm(f"{at}ln_2"),
            mlp=Mlp(up=up, down=down, activation=dims.activation, is_gated=False),
        )

    embedding = parts.embedding("wte")
    return Decoder(
        num_heads=len(parts.share.heads),
        num_kv_heads=len(parts.share.kv_heads),
        head_dim=dims.head_dim,
        attention_scale=dims.head_dim**-0.5,
        vocab_size=dims.vocab_size,
        first_token=parts.share.vocab.start,
        embedding=embedding,
        positions=_positions(dims, parts),
        layers=parts.each_layer(layer_name, layer),
        norm=parts.last_norm("ln_f", norm),
        lm_head=parts.lm_head("wte", embedding, is_tied=dims.tie_word_embeddings),
    )


def layer_name(index: int) -> str:
    return f"h.{index}."


def _positions(dims: ModelDimensions, parts: Parts) -> Tensor | None:
    """They are added where tokens are embedded."""
    if parts.share.is_first:
        return parts.matrix("wpe", whole(dims.max_positions), parts.cut.width, dtype=torch.float32)
    parts.leave("wpe.")
    return None
