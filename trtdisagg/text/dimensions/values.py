"""The dimensions of a model as one value: planning, the handover and the models are built from it.

Knows no files. What each family does with them is `engine.models`' to know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from trtdisagg.errors import ConfigError

Architecture = Literal["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "gpt2", "mixtral"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
"""`gelu`: with the error function; `gelu_tanh`: its approximation (Hendrycks and Gimpel, 2016)."""

BYTES_EACH = {"bfloat16": 2, "float32": 4}
INT8_BYTES = 1 + 4 / 64
"""A number, and its part of a float32 scale."""


class ModelDimensions(msgspec.Struct, frozen=True, kw_only=True):
    """Names are those of a Hugging Face config.json where it has a plain one."""

    architecture: Architecture
    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Of a dense MLP; an expert's is `expert_size`."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    """Rows of the embedding; a tokenizer may know fewer."""
    max_positions: int
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    """As in config.json, with `rope_type`; None for plain rotary embedding. In a GGUF file whose frequencies are
    scaled by the tensor `rope_freqs.weight` the type is `frequency_factors`."""
    local_rope_theta: float | None = None
    """Of layers with a window, unscaled; None: they have that of the others."""
    windows: list[int | None] = []
    """How many tokens a token of each layer sees, itself included; None: all before it. Empty: all do."""
    norm_eps: float
    activation: Activation = "silu"
    query_pre_attn_scalar: float | None = None
    """Scores are divided by its root; None: by that of `head_dim`."""
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    num_experts: int = 0
    num_active_experts: int = 0
    expert_size: int = 0
    norm_topk_prob: bool = True
    """The weights of the experts that a token goes to sum to 1."""
    dense_layers: list[int] = []
    """Those without experts in a model that has some."""
    tie_word_embeddings: bool
    attention_bias: bool = False
    """Of all four projections, where the family leaves it open."""
    mlp_bias: bool = False
    num_parameters: int
    fingerprint: str
    """Equal for equal files, wherever they lie."""

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    def has_experts(self, layer: int) -> bool:
        return self.num_experts > 0 and layer not in self.dense_layers

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of K and V of one token in all layers, for a server of one rank."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * BYTES_EACH[dtype]

    def weight_bytes(self, dtype: str, quantization: str = "none") -> int:
        """Of all weights in memory. With `int8` the embedding is kept in `dtype` for lookups, and all matrices, a tied
        head among them, are int8 with their scales."""
        if quantization == "none":
            return self.num_parameters * BYTES_EACH[dtype]
        embedding = self.vocab_size * self.hidden_size
        in_matrices = self.num_parameters - (0 if self.tie_word_embeddings else embedding)
        return embedding * BYTES_EACH[dtype] + int(in_matrices * INT8_BYTES)


def known_architecture(table: dict[str, Architecture], name: str, path: Path) -> Architecture:
    """
    :raises ConfigError: when a model says it is of a kind that the table does not have.
    """
    if name not in table:
        raise ConfigError(f"{path} has architecture {name}, which is not supported; supported: {', '.join(table)}")
    return table[name]
