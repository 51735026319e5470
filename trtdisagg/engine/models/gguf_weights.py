"""The tensors of a GGUF file, dequantized to float32 and brought back to how Hugging Face has them.

row order   Llama's q and k: the values of a rotary pair are neighbours, here they lie half a head apart
norms       Gemma's hold 1 + w, here w
GPT-2       matrices are [outputs, inputs], here [inputs, outputs]
experts     one tensor for all of a layer, here one each
"""

from __future__ import annotations

from math import gcd, prod

import numpy as np
import torch
from torch import Tensor

from trtdisagg.engine.models.names import name_of_gguf
from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import ModelDimensions
from trtdisagg.text.gguf_header import GgufTensor, read_gguf_header

_ROWS = 64
"""A tensor is dequantized in a few pieces: hundreds take long, and one would need several times the tensor's memory."""


class GgufWeights:
    def __init__(self, path: str, dims: ModelDimensions) -> None:
        self._path = path
        self._architecture = dims.architecture
        self._tensors: dict[str, GgufTensor] = {}
        for tensor in read_gguf_header(path).tensors.values():
            name = name_of_gguf(dims.architecture, tensor.name)
            parts = _of_each_expert(tensor) if "*" in name else [tensor]
            self._tensors |= {name.replace("*", str(i)): part for i, part in enumerate(parts)}
        is_interleaved = dims.architecture in ("llama", "mixtral")
        self._interleaved_heads = {"q_proj": dims.num_heads, "k_proj": dims.num_kv_heads} if is_interleaved else {}
        self.names = set(self._tensors)

    def read(self, name: str) -> Tensor:
        tensor = torch.from_numpy(_dequantized(self._path, self._tensors[name])).float()
        num_heads = self._interleaved_heads.get(name.split(".")[-2])
        if num_heads and tensor.shape[0] % (2 * num_heads) == 0:  # a wrong shape is the model's to name
            return _in_half_order(tensor, num_heads)
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            return tensor - 1
        if self._architecture == "gpt2" and name.startswith("h.") and tensor.ndim == 2:
            return tensor.t()
        return tensor


def _of_each_expert(tensor: GgufTensor) -> list[GgufTensor]:
    """They lie one behind the other."""
    count, *shape = tensor.shape
    num_bytes = _num_bytes(tensor) // count
    return [GgufTensor(tensor.name, tuple(shape), tensor.type, tensor.offset + i * num_bytes) for i in range(count)]


def _num_bytes(tensor: GgufTensor) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    values_per_unit, bytes_per_unit = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
    return prod(tensor.shape) // int(values_per_unit) * int(bytes_per_unit)


def _dequantized(path: str, tensor: GgufTensor) -> np.ndarray:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(tensor.type)
        num_bytes, (_, bytes_per_unit) = _num_bytes(tensor), GGML_QUANT_SIZES[kind]
        raw = np.asarray(np.memmap(path, np.uint8, mode="r", offset=tensor.offset, shape=(num_bytes,)))
        # The library goes through 16 rows at a time; where a row ends means nothing to it, so they may be long ones.
        rows = raw.reshape(gcd(num_bytes // bytes_per_unit, _ROWS), -1)
        return np.array(dequantize(rows, kind)).reshape(tensor.shape)
    except (ValueError, NotImplementedError) as e:
        raise StartupError(f"{path}: the tensor {tensor.name} cannot be read: {e}") from e


def _in_half_order(rows: Tensor, num_heads: int) -> Tensor:
    """
    GGUF   a0 b0 a1 b1 a2 b2 ...        here   a0 a1 a2 ... b0 b1 b2 ...        within each head
    """
    return rows.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).reshape(rows.shape)
