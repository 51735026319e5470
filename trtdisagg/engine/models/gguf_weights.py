"""The tensors of a GGUF file, dequantized and brought back to how Hugging Face has them.

row order   Llama's q and k: the values of a rotary pair are neighbours, here they lie half a head apart
norms       Gemma's hold 1 + w, here w
GPT-2       matrices are [outputs, inputs], here [inputs, outputs]
experts     one tensor for all of a layer, here one each

Of a matrix no more rows are read than are wanted; a row is dequantized whole, because its blocks may go across a cut.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trtdisagg.engine.models.cuts import Part
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
        rows, *columns = part[::-1] if self._is_turned(name) else part
        tensor = self._rows(stored, expert, rows)
        tensor = tensor[:, columns[0].start : columns[0].stop] if columns else tensor
        if name.split(".")[-2] in self._interleaved:
            return _in_half_order(tensor, self._head_dim)
        if self._architecture.startswith("gemma") and name.endswith("norm.weight"):
            return tensor.float() - 1
        return tensor.t() if self._is_turned(name) else tensor

    def _is_turned(self, name: str) -> bool:
        stored, _ = self._tensors[name]
        return self._architecture == "gpt2" and name.startswith("h.") and len(stored.shape) == 2

    def _rows(self, tensor: GgufTensor, expert: int | None, rows: range) -> Tensor:
        """Rows of a matrix, or of one expert's; values of a vector."""
        height, *rest = tensor.shape if expert is None else tensor.shape[1:]
        if not rest:
            return self._numbers(tensor, (height,), 0)[rows.start : rows.stop]
        return self._numbers(tensor, (len(rows), *rest), (expert or 0) * height + rows.start)

    def _numbers(self, tensor: GgufTensor, shape: tuple[int, ...], first_row: int) -> Tensor:
        try:
            skipped = first_row * num_bytes(tensor.type, shape[1:]) if first_row else 0
            count = num_bytes(tensor.type, shape)
            raw = np.fromfile(self._path, np.uint8, count, offset=tensor.offset + skipped)
            if len(raw) < count:
                raise ValueError("the file ends in the middle of it")
            return dequantize(torch.from_numpy(raw), tensor.type, shape, self._dtype)
        except (ValueError, OSError) as e:
            raise StartupError(f"{self._path}: the tensor {tensor.name} cannot be read: {e}") from e


def _in_half_order(rows: Tensor, head_dim: int) -> Tensor:
    """
    GGUF   a0 b0 a1 b1 a2 b2 ...        here   a0 a1 a2 ... b0 b1 b2 ...        within each head
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape(rows.shape)
