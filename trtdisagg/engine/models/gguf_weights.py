"""The tensors of a GGUF file, dequantized and brought back to how Hugging Face has them.

row order   Llama's q and k: the values of a rotary pair are neighbours, here they lie half a head apart
norms       Gemma's hold 1 + w, here w
GPT-2       matrices are [outputs, inputs], here [inputs, outputs]
experts     one tensor for all of a layer, here one each

Of a matrix no more rows are read than are wanted, and of these no more blocks are dequantized; a cut may go across one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trtdisagg.engine.models.cuts import Part
from trtdisagg.engine.models.dequantize import block_of, dequantize, num_bytes
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
        self._interleaved = ("q_proj", "k_proj") if dims.architecture in ("llama", "mixtral") else ()
        self._head_dim = dims.head_dim
        self.names = set(self._tensors)

    def shape(self, name: str) -> list[int]:
        tensor, expert = self._tensors[name]
        shape = list(tensor.shape if expert is None else tensor.shape[1:])
        return shape[::-1] if self._is_turned(name) else shape

    def read(self, name: str, part: Part | None = None) -> Tensor:
        """Of tensors whose heads lie in another order, whole heads only."""
        stored, expert = self._tensors[name]
        part = part or tuple(map(range, self.shape(name)))
        tensor = self._numbers(stored, expert, part[::-1] if self._is_turned(name) else part)
        if name.split(".")[-2] in self._interleaved:
            return _in_half_order(tensor, self._head_dim)
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            return tensor.float() - 1
        return tensor.t() if self._is_turned(name) else tensor

    def _is_turned(self, name: str) -> bool:
        stored, _ = self._tensors[name]
        return self._architecture == "gpt2" and name.startswith("h.") and len(stored.shape) == 2

    def _numbers(self, tensor: GgufTensor, expert: int | None, part: Part) -> Tensor:
        *height, width = tensor.shape if expert is None else tensor.shape[1:]
        rows, columns = part if len(part) == 2 else (range(1), part[0])
        first = (expert or 0) * (height[0] if height else 1) + rows.start
        try:
            values, size = block_of(tensor.type)
            row_bytes = num_bytes(tensor.type, (width,))
            blocks = range(columns.start // values, -(-columns.stop // values))
            offset = tensor.offset + first * row_bytes
            raw = np.fromfile(self._path, np.uint8, len(rows) * row_bytes, offset=offset)
            if len(raw) < len(rows) * row_bytes:
                raise ValueError("the file ends in the middle of it")
            raw = raw.reshape(len(rows), row_bytes)[:, blocks.start * size : blocks.stop * size]
            shape = len(rows), len(blocks) * values
            numbers = dequantize(torch.from_numpy(raw.reshape(-1)), tensor.type, shape, self._dtype)
        except (ValueError, OSError) as e:
            raise StartupError(f"{self._path}: the tensor {tensor.name} cannot be read: {e}") from e
        start = blocks.start * values
        wanted = numbers[:, columns.start - start : columns.stop - start]
        return wanted if len(part) == 2 else wanted[0]


def _in_half_order(rows: Tensor, head_dim: int) -> Tensor:
    """
    GGUF   a0 b0 a1 b1 a2 b2 ...        here   a0 a1 a2 ... b0 b1 b2 ...        within each head
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape(rows.shape)
