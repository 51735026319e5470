"""The dimensions of a model, read from its configuration and the headers of its weights in a fraction of a second.

Planning (memory, limits), the handover (do two servers hold the same weights?) and the models are built from this one
value. Knows nothing of tensors' contents, but for a few samples that go into the fingerprint.
"""

from __future__ import annotations

import hashlib
import struct
from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.text.gguf_header import GgufHeader, read_gguf_header
from trtdisagg.text.model_files import ModelFiles

Architecture = Literal["llama"]

_DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
_HF_ARCHITECTURES: dict[str, Architecture] = {"LlamaForCausalLM": "llama"}
_GGUF_ARCHITECTURES: dict[str, Architecture] = {"llama": "llama"}
_NUM_SAMPLES, _SAMPLE_BYTES = 16, 4096


class ModelDimensions(msgspec.Struct, frozen=True, kw_only=True):
    """Names are those of a Hugging Face config.json where it has a plain one."""

    architecture: Architecture
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    """Rows of the embedding; a tokenizer may know fewer."""
    max_positions: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None = None
    """As in config.json, with `rope_type`; None for plain rotary embedding. In a GGUF file whose frequencies are
    scaled by the tensor `rope_freqs.weight` the type is `frequency_factors`."""
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    num_parameters: int
    fingerprint: str
    """Equal for equal files, wherever they lie."""

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of K and V of one token in all layers, for a server of one rank."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * _DTYPE_BYTES[dtype]

    def weight_bytes(self, dtype: str) -> int:
        return self.num_parameters * _DTYPE_BYTES[dtype]


def read_dimensions(files: ModelFiles) -> ModelDimensions:
    """Read what a model is.

    :raises StartupError: when files are missing or damaged.
    :raises ConfigError: when it is a model that is not supported.
    """
    path = Path(files.path)
    try:
        return _from_gguf(path) if files.format == "gguf" else _from_directory(path)
    except KeyError as e:
        raise StartupError(f"The model {path} does not say its {e.args[0]}") from e
    except OSError as e:
        raise StartupError(f"The model {path} cannot be read: {e}") from e


# --- a directory with safetensors -----------------------------------------------------------------------------------


def _from_directory(path: Path) -> ModelDimensions:
    config = read_json(path / "config.json")
    architecture = _known(_HF_ARCHITECTURES, (config.get("architectures") or ["none"])[0], path)
    _refuse(config, path)
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or rope
    num_heads = config["num_attention_heads"]
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
        max_positions=config["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(scaling),
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        num_parameters=sum(_num_parameters(h) for h in headers.values()),
        fingerprint=_fingerprint({f: len(h) + 8 for f, h in headers.items()}, (path / "config.json").read_bytes()),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model directory.

    :raises StartupError: when it is not there or is no JSON object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as e:
        raise StartupError(f"{path} cannot be read: {e.strerror}") from e
    except msgspec.DecodeError as e:
        raise StartupError(f"{path} is not a JSON object: {e}") from e


def _refuse(config: dict[str, Any], path: Path) -> None:
    """Refuse what would be computed wrongly."""
    if config.get("quantization_config"):
        raise ConfigError(f"{path}: quantized safetensors are not supported; take the model's bfloat16 form, or a GGUF")
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise ConfigError(f"{path}: the activation {act} is not supported; supported: silu")


def _rope_scaling(raw: dict[str, Any]) -> dict[str, Any] | None:
    kind = raw.get("rope_type") or raw.get("type") or "default"
    return None if kind == "default" else {**raw, "rope_type": kind}


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


# --- GGUF -----------------------------------------------------------------------------------------------------------


def _from_gguf(path: Path) -> ModelDimensions:
    header = read_gguf_header(str(path))
    meta = header.metadata
    architecture = _known(_GGUF_ARCHITECTURES, meta.get("general.architecture", "none"), path)
    if meta.get("split.count", 0) > 1:
        raise ConfigError(f"{path} is one of {meta['split.count']} parts; merge them with `gguf-split --merge` first")
    if meta.get("llama.expert_count", 0):
        raise ConfigError(f"{path} is a mixture of experts, which is not supported; supported: dense Llama models")
    num_heads = meta["llama.attention.head_count"]
    hidden_size = meta["llama.embedding_length"]
    return ModelDimensions(
        architecture=architecture,
        num_layers=meta["llama.block_count"],
        hidden_size=hidden_size,
        intermediate_size=meta["llama.feed_forward_length"],
        num_heads=num_heads,
        num_kv_heads=meta.get("llama.attention.head_count_kv", num_heads),
        head_dim=meta.get("llama.attention.key_length", hidden_size // num_heads),
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        max_positions=meta["llama.context_length"],
        rope_theta=float(meta.get("llama.rope.freq_base", 10000.0)),
        rope_scaling=_gguf_rope_scaling(header),
        rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
        num_parameters=header.num_parameters,
        fingerprint=_fingerprint({path: header.data_offset}),
    )


def _gguf_rope_scaling(header: GgufHeader) -> dict[str, Any] | None:
    if "rope_freqs.weight" in header.tensors:
        return {"rope_type": "frequency_factors"}
    prefix = "llama.rope.scaling."
    raw = {k.removeprefix(prefix): v for k, v in header.metadata.items() if k.startswith(prefix)}
    return _rope_scaling({**raw, "rope_type": raw.pop("type")}) if raw.get("type", "none") != "none" else None


# --- both -----------------------------------------------------------------------------------------------------------


def _known(table: dict[str, Architecture], name: str, path: Path) -> Architecture:
    if name not in table:
        raise ConfigError(f"{path} has architecture {name}, which is not supported; supported: {', '.join(table)}")
    return table[name]


def _fingerprint(headers: dict[Path, int], config: bytes = b"") -> str:
    """Digest of sizes, headers and some samples of the data: two fine-tunings of one model differ in the data alone.

    :param headers: weight file -> length of its header in bytes.
    """
    digest = hashlib.blake2b(config, digest_size=16)
    for path, header_bytes in headers.items():
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(struct.pack("<Q", size) + file.read(header_bytes))
            for i in range(_NUM_SAMPLES):
                file.seek(header_bytes + (size - header_bytes) * i // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
