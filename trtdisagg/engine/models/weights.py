"""A model's weights, tensor by tensor, under the names Hugging Face gives them: from safetensors or from a GGUF file.

A tensor is read when it is asked for and nothing is kept, so that loading needs little more memory than the model.
Which tensors there must be is the model's to know.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd, prod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import ModelDimensions, read_json
from trtdisagg.text.gguf_header import GgufTensor, read_gguf_header

ROPE_FACTORS = "rope_freqs.weight"
"""A tensor that only GGUF files have: what the rotary frequencies are divided by."""


class WeightSource(Protocol):
    names: set[str]
    """Of all tensors in the files."""

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the file's precision or in float32."""


@contextmanager
def open_weights(path: str, dims: ModelDimensions) -> Iterator[WeightSource]:
    """Open the weights of a directory with safetensors, or of a .gguf file.

    :raises StartupError: when a file is missing or damaged.
    """
    with contextlib.ExitStack() as files:
        yield SafetensorsWeights(Path(path), files) if Path(path).is_dir() else GgufWeights(path, dims)


# --- safetensors ----------------------------------------------------------------------------------------------------


class SafetensorsWeights:
    """All tensors of a directory; a checkpoint in several files has an index of them."""

    def __init__(self, path: Path, files: contextlib.ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._files = {}
        for file in _checkpoint_files(path):
            try:
                opened = files.enter_context(safe_open(file, framework="pt"))
            except (OSError, SafetensorError) as e:
                raise StartupError(f"The weights {file} cannot be read: {e}") from e
            self._files.update(dict.fromkeys(opened.keys(), opened))
        self.names = set(self._files)

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def _checkpoint_files(path: Path) -> list[Path]:
    """A directory may hold the same weights in another form beside those that count."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            return sorted({path / file for file in read_json(index)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as e:
            raise StartupError(f"{index} does not say which file holds which tensor") from e
    single = path / "model.safetensors"
    return [single] if single.exists() else sorted(path.glob("*.safetensors"))


# --- GGUF -----------------------------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_ROWS = 64
"""A tensor is dequantized in a few pieces: hundreds take long, and one would need several times the tensor's memory."""


class GgufWeights:
    """All tensors of a GGUF file, dequantized to float32."""

    def __init__(self, path: str, dims: ModelDimensions) -> None:
        self._path = path
        self._tensors = {_hf_name(t.name): t for t in read_gguf_header(path).tensors.values()}
        self._num_heads = {"q_proj": dims.num_heads, "k_proj": dims.num_kv_heads}
        self.names = set(self._tensors)

    def read(self, name: str) -> Tensor:
        tensor = torch.from_numpy(_dequantized(self._path, self._tensors[name])).float()
        num_heads = self._num_heads.get(name.split(".")[-2])
        if num_heads is None or tensor.shape[0] % (2 * num_heads):  # a wrong shape is the model's to name
            return tensor
        return _in_half_order(tensor, num_heads)


def _hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; an unknown name stays as it is."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found or found[2] not in _GGUF_NAMES:
        return name
    layer = f"model.layers.{found[1]}." if found[1] else ""
    return f"{layer}{_GGUF_NAMES[found[2]]}.{found[3]}"


def _dequantized(path: str, tensor: GgufTensor) -> np.ndarray:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(tensor.type)
        values_per_unit, bytes_per_unit = GGML_QUANT_SIZES[kind]
        num_bytes = prod(tensor.shape) // values_per_unit * bytes_per_unit
        raw = np.asarray(np.memmap(path, np.uint8, mode="r", offset=tensor.offset, shape=(num_bytes,)))
        # The library goes through 16 rows at a time; where a row ends means nothing to it, so they may be long ones.
        rows = raw.reshape(gcd(num_bytes // bytes_per_unit, _ROWS), -1)
        return np.array(dequantize(rows, kind)).reshape(tensor.shape)
    except (ValueError, NotImplementedError) as e:
        raise StartupError(f"{path}: the tensor {tensor.name} cannot be read: {e}") from e


def _in_half_order(rows: Tensor, num_heads: int) -> Tensor:
    """Undo what the conversion to GGUF does to the rows of q and k.

    In a GGUF file the two values of a rotary pair are neighbours; here they lie half a head apart.

        GGUF   a0 b0 a1 b1 a2 b2 ...        here   a0 a1 a2 ... b0 b1 b2 ...        within each head
    """
    return rows.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).reshape(rows.shape)
