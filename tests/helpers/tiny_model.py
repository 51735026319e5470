"""A Llama of random weights, small enough to be made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers import tiny_tokenizer
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 64, 2, 4, 2, 8
VOCAB = tiny_tokenizer.byte_level().get_vocab_size()
MAX_POSITIONS = 256


def write(directory: Path, *, seed: int = 0) -> Path:
    """Put a whole model into `directory`: configuration, weights in float32, tokenizer."""
    directory.mkdir(exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": tiny_tokenizer.EOS_ID,
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(_weights(np.random.default_rng(seed)), directory / "model.safetensors")
    tiny_tokenizer.write_byte_level(directory)
    return directory


def _weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.standard_normal((rows, columns), np.float32) / np.sqrt(np.float32(columns))

    weights = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights[f"{layer}.self_attn.{name}_proj.weight"] = matrix(heads * HEAD_DIM, HIDDEN)
        weights[f"{layer}.self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        weights[f"{layer}.mlp.gate_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{layer}.mlp.up_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{layer}.mlp.down_proj.weight"] = matrix(HIDDEN, INNER)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
    return weights
