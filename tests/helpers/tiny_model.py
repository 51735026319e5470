"""A Llama of random weights, small enough to be made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers import tiny_tokenizer
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 64, 2, 4, 2, 8
VOCAB = tiny_tokenizer.byte_level().get_vocab_size()
MAX_POSITIONS = 256


class Sizes(NamedTuple):
    """What models differ in."""

    layers: int = LAYERS
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    experts: int = 0
    """With some it is a Mixtral, two of them for each token."""


def write(directory: Path, *, seed: int = 0, sizes: Sizes = Sizes()) -> Path:  # noqa: B008 (a value)
    """Put a whole model into `directory`: configuration, weights in float32, tokenizer."""
    directory.mkdir(exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": tiny_tokenizer.EOS_ID,
        "head_dim": HEAD_DIM,
    }
    if sizes.experts:
        experts = {"num_local_experts": sizes.experts, "num_experts_per_tok": 2}
        config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None, **experts}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(_weights(np.random.default_rng(seed), sizes), directory / "model.safetensors")
    tiny_tokenizer.write_byte_level(directory)
    return directory


def _weights(random: np.random.Generator, sizes: Sizes) -> dict[str, np.ndarray]:
    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.standard_normal((rows, columns), np.float32) / np.sqrt(np.float32(columns))

    weights = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for i in range(sizes.layers):
        layer = f"model.layers.{i}"
        for name, heads in (("q", sizes.heads), ("k", sizes.kv_heads), ("v", sizes.kv_heads)):
            weights[f"{layer}.self_attn.{name}_proj.weight"] = matrix(heads * HEAD_DIM, HIDDEN)
        weights[f"{layer}.self_attn.o_proj.weight"] = matrix(HIDDEN, sizes.heads * HEAD_DIM)
        for mlp, names in _mlps(layer, sizes):
            weights[f"{mlp}.{names[0]}.weight"] = matrix(INNER, HIDDEN)
            weights[f"{mlp}.{names[1]}.weight"] = matrix(INNER, HIDDEN)
            weights[f"{mlp}.{names[2]}.weight"] = matrix(HIDDEN, INNER)
        if sizes.experts:
            weights[f"{layer}.block_sparse_moe.gate.weight"] = matrix(sizes.experts, HIDDEN)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
    return weights


def _mlps(layer: str, sizes: Sizes) -> list[tuple[str, tuple[str, str, str]]]:
    """Where each MLP of a layer is, and what its gate, up and down are called."""
    if not sizes.experts:
        return [(f"{layer}.mlp", ("gate_proj", "up_proj", "down_proj"))]
    return [(f"{layer}.block_sparse_moe.experts.{i}", ("w1", "w3", "w2")) for i in range(sizes.experts)]
