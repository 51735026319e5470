"""Dimensions of a directory with safetensors: from config.json and the headers of the weights."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.text.dimensions.families import ARCHITECTURES, plain_config
from trtdisagg.text.dimensions.fingerprint import fingerprint
from trtdisagg.text.dimensions.values import Activation, ModelDimensions, known_architecture
from trtdisagg.text.json_file import read_json

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def dimensions_of_directory(path: Path) -> ModelDimensions:
    raw = read_json(path / "config.json")
    architecture = known_architecture(ARCHITECTURES, (raw.get("architectures") or ["none"])[0], path)
    config = plain_config(architecture, raw, path)
    num_heads, max_positions = config["num_attention_heads"], config["max_position_embeddings"]
    theta, scaling, local_theta = _rope(config, max_positions, path)
    headers = {f: _safetensors_header(f) for f in sorted(path.glob("*.safetensors"))}
    return ModelDimensions(
        architecture=architecture,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
        vocab_size=config["vocab_size"],
        max_positions=max_positions,
        rope_theta=theta,
        rope_scaling=scaling,
        local_rope_theta=local_theta,
        windows=_windows(config, max_positions, path),
        norm_eps=config["rms_norm_eps"],
        activation=_activation(config, path),
        query_pre_attn_scalar=config.get("query_pre_attn_scalar"),
        attention_softcap=config.get("attn_logit_softcapping"),
        logit_softcap=config.get("final_logit_softcapping"),
        num_experts=config.get("num_experts", 0),
        num_active_experts=config.get("num_experts_per_tok", 0),
        expert_size=config.get("moe_intermediate_size", 0),
        norm_topk_prob=config.get("norm_topk_prob", True),
        dense_layers=config.get("mlp_only_layers") or [],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        num_parameters=sum(_num_parameters(h) for h in headers.values()),
        fingerprint=fingerprint({f: len(h) + 8 for f, h in headers.items()}, (path / "config.json").read_bytes()),
    )


def _activation(config: dict[str, Any], path: Path) -> Activation:
    name = config["hidden_act"]
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ConfigError(f"{path}: the activation {name} is not supported; supported: {known}")
    return _ACTIVATIONS[name]


def _windows(config: dict[str, Any], max_positions: int, path: Path) -> list[int | None]:
    kinds, size = config["layer_types"], config.get("sliding_window")
    if unknown := {*kinds} - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"{path}: layers of type {', '.join(sorted(unknown))} are not supported")
    if not size or size >= max_positions or "sliding_attention" not in kinds:
        return []
    return [size if kind == "sliding_attention" else None for kind in kinds]


# --- rotary embedding -----------------------------------------------------------------------------------------------


def _rope(config: dict[str, Any], max_positions: int, path: Path) -> tuple[float, dict[str, Any] | None, float | None]:
    """Base and scaling of most layers, and the base of those with a window where it is another: in either of the two
    forms that configurations have, `rope_theta` with `rope_scaling`, or `rope_parameters`."""
    parameters = config.get("rope_parameters") or {}
    of_all = parameters.get("full_attention") or parameters
    local = parameters.get("sliding_attention") or {}
    scaling = config.get("rope_scaling") or of_all
    for said in (config, scaling, local):
        if said.get("partial_rotary_factor", 1.0) != 1.0:
            raise ConfigError(f"{path}: a partial rotary embedding is not supported")
    if _scaling(local, max_positions) is not None:
        raise ConfigError(f"{path}: a scaled rotary embedding of layers with a window is not supported")
    theta = of_all.get("rope_theta") or config.get("rope_theta") or 10000.0
    local_theta = local.get("rope_theta") or config.get("rope_local_base_freq")
    return float(theta), _scaling(scaling, max_positions), local_theta


def _scaling(raw: dict[str, Any], max_positions: int) -> dict[str, Any] | None:
    kind = raw.get("rope_type") or raw.get("type") or "default"
    if kind == "default":
        return None
    return {"original_max_position_embeddings": max_positions, **raw, "rope_type": kind}


# --- safetensors ----------------------------------------------------------------------------------------------------


def _safetensors_header(path: Path) -> bytes:
    """The JSON that a safetensors file begins with: 8 bytes of length, then the header."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            raise StartupError(f"{path} is damaged: it has no safetensors header")
        return file.read(length)


def _num_parameters(header: bytes) -> int:
    try:
        tensors = msgspec.json.decode(header, type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise StartupError(f"A safetensors file is damaged: its header is not JSON ({e})") from e
    return sum(prod(t["shape"]) for name, t in tensors.items() if name != "__metadata__")
