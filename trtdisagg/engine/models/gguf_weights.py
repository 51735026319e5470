"""The tensors of a GGUF file, dequantized and brought back to how Hugging Face has them.

row order   Llama's q and k: the values of a rotary pair are neighbours, here they lie half a head apart
norms       Gemma's hold 1 + w, here w
GPT-2       matrices are [outputs, inputs], here [inputs, outputs]
experts     one tensor for all of a layer, here one each
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trtdisagg.engine.models.dequantize import dequantize, num_bytes
from trtdisagg.engine.models.names import name_of_gguf
from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import ModelDimensions
from trtdisagg.text.gguf_header import GgufTensor, read_gguf_header


class GgufWeights:
    """
    :param dtype: what quantized numbers become.
    """

    def __init__(self, path: str, dims: ModelDimensions, dtype: torch.dtype) -> None:
        self._path = path
        self._architecture = dims.architecture
        self._dtype = dtype
        self._tensors: dict[str, tuple[GgufTensor, int | None]] = {}
        for tensor in read_gguf_header(path).tensors.values():
            name = name_of_gguf(dims.architecture, tensor.name)
            if "*" in name:
                self._tensors |= {name.replace("*", str(i)): (tensor, i) for i in range(tensor.shape[0])}
            else:
                self._tensors[name] = (tensor, None)
        is_interleaved = dims.architecture in ("llama", "mixtral")
        self._interleaved_heads = {"q_proj": dims.num_heads, "k_proj": dims.num_kv_heads} if is_interleaved else {}
        self.names = set(self._tensors)

    def read(self, name: str) -> Tensor:
        stored, expert = self._tensors[name]
        tensor = self._numbers(stored, expert)
        num_heads = self._interleaved_heads.get(name.split(".")[-2])
        if num_heads and tensor.shape[0] % (2 * num_heads) == 0:  # a wrong shape is the model's to name
            return _in_half_order(tensor, num_heads)
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            return tensor.float() - 1
        if self._architecture == "gpt2" and name.startswith("h.") and tensor.ndim == 2:
            return tensor.t()
        return tensor

    def _numbers(self, tensor: GgufTensor, expert: int | None) -> Tensor:
        shape = tensor.shape if expert is None else tensor.shape[1:]
        try:
            count = num_bytes(tensor.type, shape)
            raw = np.fromfile(self._path, np.uint8, count, offset=tensor.offset + (expert or 0) * count)
            if len(raw) < count:
                raise ValueError("the file ends in the middle of it")
            return dequantize(torch.from_numpy(raw), tensor.type, shape, self._dtype)
        except (ValueError, OSError) as e:
            raise StartupError(f"{self._path}: the tensor {tensor.name} cannot be read: {e}") from e


def _in_half_order(rows: Tensor, num_heads: int) -> Tensor:
    """
    GGUF   a0 b0 a1 b1 a2 b2 ...        here   a0 a1 a2 ... b0 b1 b2 ...        within each head
    """
    return rows.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).reshape(rows.shape)
