"""What a layer does to each row by itself, normalization and the gated activation: plain torch, or csrc on a CPU.

On one row torch's `rms_norm` takes longer than the attention (40 us and more, twice a layer).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn.functional import rms_norm, silu

from trtdisagg.engine.backend import Backend


class Rowwise(Protocol):
    def norm(self, x: Tensor, weight: Tensor, eps: float, delta: Tensor | None = None) -> Tensor:
        """
        Add delta to x in place, then give x / root mean square of its row * weight.

        :param x: [rows, width], contiguous, as is `delta`.
        :param weight: [width]
        """

    def gate(self, gate_up: Tensor) -> Tensor:
        """
        :param gate_up: [rows, 2 width], contiguous: gate, then up.
        :return: silu(gate) * up, [rows, width].
        """


class TorchRowwise:
    def norm(self, x: Tensor, weight: Tensor, eps: float, delta: Tensor | None = None) -> Tensor:
        if delta is not None:
            x += delta
        return rms_norm(x, weight.shape, weight, eps)

    def gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)


class NativeRowwise:
    def __init__(self, backend: Backend) -> None:
        assert backend.csrc is not None
        self._dtype = backend.dtype
        self._ops = backend.csrc.RowwiseOps(backend.is_bf16, backend.workers)

    def norm(self, x: Tensor, weight: Tensor, eps: float, delta: Tensor | None = None) -> Tensor:
        rows, width = x.shape
        assert x.dtype == weight.dtype == self._dtype
        assert weight.shape == (width,)
        assert x.is_contiguous()
        delta_address = 0
        if delta is not None:
            assert delta.shape == x.shape
            assert delta.dtype == self._dtype
            assert delta.is_contiguous()
            delta_address = delta.data_ptr()
        out = x.new_empty(rows, width)
        self._ops.norm(x.data_ptr(), delta_address, weight.data_ptr(), out.data_ptr(), rows, width, eps)
        return out

    def gate(self, gate_up: Tensor) -> Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        assert gate_up.dtype == self._dtype
        assert gate_up.is_contiguous()
        out = gate_up.new_empty(rows, width)
        self._ops.gate(gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out


def make_rowwise(backend: Backend) -> Rowwise:
    return NativeRowwise(backend) if backend.csrc else TorchRowwise()
