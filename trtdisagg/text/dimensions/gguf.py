"""Dimensions of a GGUF file: from its metadata and the table of its tensors.

Where the metadata leave something open, it is as llama.cpp has it, for which such files are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtdisagg.errors import ConfigError
from trtdisagg.text.dimensions.fingerprint import fingerprint
from trtdisagg.text.dimensions.values import Architecture, ModelDimensions, known_architecture
from trtdisagg.text.gguf_header import GgufHeader, read_gguf_header

_ARCHITECTURES: dict[str, Architecture] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gpt2": "gpt2",
}
_GEMMA_PERIODS = {"gemma2": 2, "gemma3": 6}
"""So many layers have one without a window among them, the last."""
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
"""By them it is known; it alone does not divide scores by the root of `head_dim`."""
_YARN_NAMES = {
    "original_context_length": "original_max_position_embeddings",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_NEUTRAL = {"attn_factor": 1.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0, "alpha": 0.0}
"""Values of `rope.scaling.*` that change nothing; others are not computed here."""


def dimensions_of_gguf(path: Path) -> ModelDimensions:
    header = read_gguf_header(str(path))
    if header.metadata.get("split.count", 0) > 1:
        count = header.metadata["split.count"]
        raise ConfigError(f"{path} is one of {count} parts; merge them with `gguf-split --merge` first")
    meta = _Metadata(header)
    architecture = known_architecture(_ARCHITECTURES, meta.prefix, path)
    num_experts = meta.get("expert_count", 0)
    if architecture == "llama" and num_experts:
        architecture = "mixtral"
    num_heads, hidden_size = meta["attention.head_count"], meta["embedding_length"]
    num_kv_heads = meta.get("attention.head_count_kv", num_heads)
    if not isinstance(num_kv_heads, int):
        raise ConfigError(f"{path} has layers of different numbers of heads, which is not supported")
    inner = meta["feed_forward_length"]
    is_gemma = architecture in _GEMMA_PERIODS
    return ModelDimensions(
        architecture=architecture,
        num_layers=meta["block_count"],
        hidden_size=hidden_size,
        intermediate_size=inner,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=meta.get("attention.key_length", hidden_size // num_heads),
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        max_positions=meta["context_length"],
        rope_theta=float(meta.get("rope.freq_base", 10000.0)),
        rope_scaling=_rope_scaling(header, meta, path),
        local_rope_theta=float(meta.get("rope.freq_base_swa", 10000.0)) if architecture == "gemma3" else None,
        windows=_gemma_windows(meta) if is_gemma else [],
        norm_eps=meta["attention.layer_norm_epsilon" if architecture == "gpt2" else "attention.layer_norm_rms_epsilon"],
        activation="gelu_tanh" if is_gemma or architecture == "gpt2" else "silu",
        query_pre_attn_scalar=_query_pre_attn_scalar(meta, hidden_size // num_heads),
        attention_softcap=meta.get("attn_logit_softcapping", 50.0 if architecture == "gemma2" else None),
        logit_softcap=meta.get("final_logit_softcapping", 30.0 if architecture == "gemma2" else None),
        num_experts=num_experts,
        num_active_experts=meta.get("expert_used_count", 0),
        expert_size=meta.get("expert_feed_forward_length", inner) if num_experts else 0,
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
        num_parameters=header.num_parameters,
        fingerprint=fingerprint({path: header.data_offset}),
    )


class _Metadata:
    """The keys of the file's architecture, without its name before them."""

    def __init__(self, header: GgufHeader) -> None:
        self._all = header.metadata
        self.prefix = str(header.metadata.get("general.architecture", "none"))

    def __getitem__(self, key: str) -> Any:
        return self._all[f"{self.prefix}.{key}"]

    def get(self, key: str, default: Any = None) -> Any:
        return self._all.get(f"{self.prefix}.{key}", default)

    def below(self, key: str) -> dict[str, Any]:
        start = f"{self.prefix}.{key}."
        return {k.removeprefix(start): v for k, v in self._all.items() if k.startswith(start)}


def _gemma_windows(meta: _Metadata) -> list[int | None]:
    size = meta.get("attention.sliding_window", 4096 if meta.prefix == "gemma2" else 0)
    if not size or size >= meta["context_length"]:
        return []
    num_layers = meta["block_count"]
    pattern = meta.get("attention.sliding_window_pattern", _GEMMA_PERIODS[meta.prefix])
    if isinstance(pattern, int):
        pattern = [(i + 1) % pattern != 0 for i in range(num_layers)]
    return [size if has_window else None for has_window in pattern]


def _query_pre_attn_scalar(meta: _Metadata, width_of_head: int) -> float | None:
    return float(width_of_head) if _GEMMA_27B_LAYERS.get(meta.prefix) == meta["block_count"] else None


def _rope_scaling(header: GgufHeader, meta: _Metadata, path: Path) -> dict[str, Any] | None:
    if "rope_freqs.weight" in header.tensors:
        return {"rope_type": "frequency_factors"}
    raw = meta.below("rope.scaling")
    kind = raw.pop("type", "none")
    raw.pop("finetuned", None)
    if kind == "none":
        return None
    for key, neutral in _NEUTRAL.items():
        if raw.pop(key, neutral) != neutral:
            raise ConfigError(f"{path}: a rope scaling with {key} is not supported")
    named = {_YARN_NAMES.get(key, key): value for key, value in raw.items()}
    return {"original_max_position_embeddings": meta["context_length"], **named, "rope_type": kind}
