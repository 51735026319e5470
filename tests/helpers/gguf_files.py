"""Writes GGUF files as llama.cpp's conversion of a checkpoint does: its names come from the gguf library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor

from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.model_files import files_at

ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}
"""Of GGUF, where it has another name than ours."""


def write_gguf(directory: Path, target: Path, *, factors: Tensor | None = None, kind: Any = None) -> Path:
    """Convert a safetensors directory.

    :param factors: written as `rope_freqs.weight`.
    :param kind: a `GGMLQuantizationType` for matrices.
    """
    dims = read_dimensions(files_at(directory))
    name = ARCHITECTURES.get(dims.architecture, dims.architecture)
    writer = gguf.GGUFWriter(target, name)
    _add_metadata(writer, dims)
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name)
    names = gguf.get_tensor_name_map(arch, dims.num_layers)
    tensors = {k: t for file in sorted(directory.glob("*.safetensors")) for k, t in load_file(file).items()}
    for hf_name, tensor in _with_merged_experts(tensors, dims).items():
        values, stored = _converted(hf_name, tensor, dims).contiguous().numpy(), gguf.GGMLQuantizationType.F32
        if kind is not None and values.ndim == 2:
            values, stored = gguf.quants.quantize(values, kind), kind
        new_name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, hf_name
        writer.add_tensor(new_name, values, raw_dtype=stored)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_metadata(writer: gguf.GGUFWriter, dims: ModelDimensions) -> None:
    writer.add_block_count(dims.num_layers)
    writer.add_embedding_length(dims.hidden_size)
    writer.add_feed_forward_length(dims.intermediate_size)
    writer.add_head_count(dims.num_heads)
    writer.add_head_count_kv(dims.num_kv_heads)
    writer.add_context_length(dims.max_positions)
    if dims.architecture == "gpt2":
        writer.add_layer_norm_eps(dims.norm_eps)
        return
    writer.add_key_length(dims.head_dim)
    writer.add_layer_norm_rms_eps(dims.norm_eps)
    writer.add_rope_freq_base(dims.rope_theta)
    _add_rope_scaling(writer, dims.rope_scaling or {})
    if dims.num_experts:
        writer.add_expert_count(dims.num_experts)
        writer.add_expert_used_count(dims.num_active_experts)
        writer.add_expert_feed_forward_length(dims.expert_size)
    if dims.architecture.startswith("gemma"):
        writer.add_sliding_window(max(w or 0 for w in dims.windows))
    if dims.architecture == "gemma2":
        writer.add_attn_logit_softcapping(dims.attention_softcap)
        writer.add_final_logit_softcapping(dims.logit_softcap)
    if dims.local_rope_theta is not None:
        writer.add_rope_freq_base_swa(dims.local_rope_theta)


def _add_rope_scaling(writer: gguf.GGUFWriter, scaling: dict[str, Any]) -> None:
    if scaling.get("rope_type") not in ("linear", "yarn"):
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
    writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _converted(name: str, tensor: Tensor, dims: ModelDimensions) -> Tensor:
    """What `modify_tensors` of llama.cpp's conversion does to it."""
    heads = {"q_proj": dims.num_heads, "k_proj": dims.num_kv_heads}.get(name.split(".")[-2])
    if heads and dims.architecture in ("llama", "mistral", "mixtral"):
        return _interleaved(tensor, heads)
    if dims.architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    return tensor.t() if re.search(r"\.(c_attn|c_proj|c_fc)\.weight", name) else tensor


def _interleaved(rows: Tensor, num_heads: int) -> Tensor:
    """As `LlamaModel.permute` there."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _with_merged_experts(tensors: dict[str, Tensor], dims: ModelDimensions) -> dict[str, Tensor]:
    """One tensor for a layer's experts, under the name the library knows."""
    merged = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for name in tensors:
        if found := re.fullmatch(r"(.*\.experts\.)0\.(.*)", name):
            start, end = found.groups()
            merged[start + end] = torch.stack([tensors[f"{start}{i}.{end}"] for i in range(dims.num_experts)])
    return merged
