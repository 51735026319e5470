"""Linear layers: which of the ways to multiply is fastest for this type, this device and this many rows.

    CPU, bfloat16    few rows: csrc, which widens in registers       many: native where the CPU has bfloat16 products,
                                                                     elsewhere tiles widened to float32 and float32 GEMM
    CPU, float32     few rows: csrc                                  many: torch
    other devices    torch

On a CPU without bfloat16 instructions (AVX2) torch's own bfloat16 product runs at 8 to 10 GFLOP/s, its float32 at 30 to
75; the limits below are where the ways meet there.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from trtdisagg.engine.backend import Backend

_FEW_ROWS_WIDENED = 24
"""Below this csrc is faster than widened tiles."""
_FEW_ROWS = 8
"""Below this csrc is faster than torch's native product."""
_TILE_VALUES = 2**21
"""Values of a weight that are widened at once: 8 MiB, so that they are still in the cache when they are multiplied."""
_MAX_PRODUCTS = 2**34
"""In one call on a CPU: about a second of one slow core, so that a long step shows progress."""


class Multiplier:
    """What the linear layers of one model share: the choice, and room for a widened tile."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.can_widen = backend.device.type == "cpu" and backend.is_bf16
        self.widens = self.can_widen and not _has_bfloat16_products()
        few_rows = _FEW_ROWS_WIDENED if self.widens else _FEW_ROWS
        self.few_rows = few_rows if backend.csrc else int(self.widens)
        self._tile = torch.empty(_TILE_VALUES if self.can_widen else 0)

    def widened(self, x: Tensor, weight: Tensor, out_type: torch.dtype) -> Tensor:
        """x weight^T with float32 products."""
        num_outputs, num_inputs = weight.shape
        rows_at_once = max(1, _TILE_VALUES // num_inputs)
        wide = x.float()
        out = x.new_empty(x.shape[0], num_outputs, dtype=out_type)
        for begin in range(0, num_outputs, rows_at_once):
            part = weight[begin : begin + rows_at_once]
            tile = self._tile[: part.numel()].view(part.shape).copy_(part)
            out[:, begin : begin + rows_at_once] = torch.mm(wide, tile.t())
            self.backend.progress.tick()
        return out

    def native(self, x: Tensor, weight: Tensor) -> Tensor:
        """x weight^T as torch has it; on a CPU so many rows at once that no call takes long."""
        rows_at_once = max(64, _MAX_PRODUCTS // weight.numel())
        if self.backend.device.type != "cpu" or x.shape[0] <= rows_at_once:
            return linear(x, weight)
        out = x.new_empty(x.shape[0], weight.shape[0])
        for begin in range(0, x.shape[0], rows_at_once):
            torch.mm(x[begin : begin + rows_at_once], weight.t(), out=out[begin : begin + rows_at_once])
            self.backend.progress.tick()
        return out


class Linear:
    """x -> x weight^T + bias

    :param weight: [outputs, inputs]
    :param out_type: float32 for what must not be rounded to the type of the weight; None: that type.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, multiplier: Multiplier, out_type: torch.dtype | None = None
    ) -> None:
        self.weight = weight
        self._out_type = out_type or weight.dtype
        self._is_wider = self._out_type != weight.dtype
        self.bias = bias
        self._multiplier = multiplier
        backend = multiplier.backend
        self._small = backend.csrc.SmallLinear(weight, backend.workers) if backend.csrc else None

    def __call__(self, x: Tensor) -> Tensor:
        """
        :param x: [rows, inputs], contiguous.
        """
        out = self._multiply(x)
        self._multiplier.backend.progress.tick()
        return out if self.bias is None else out.add_(self.bias)

    def _multiply(self, x: Tensor) -> Tensor:
        has_few_rows = x.shape[0] <= self._multiplier.few_rows
        if has_few_rows and self._small is not None:
            return self._multiply_few(x, self._small)
        if self._multiplier.can_widen and (self._is_wider or (self._multiplier.widens and not has_few_rows)):
            return self._multiplier.widened(x, self.weight, self._out_type)
        return self._multiplier.native(x, self.weight).to(self._out_type)

    def _multiply_few(self, x: Tensor, small: Any) -> Tensor:
        assert x.shape[1] == self.weight.shape[1]
        assert x.dtype == self.weight.dtype
        assert x.is_contiguous()
        out = x.new_empty(x.shape[0], self.weight.shape[0], dtype=self._out_type)
        small.run(x.data_ptr(), out.data_ptr(), x.shape[0], self._is_wider)
        return out


def _has_bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 as such (AVX-512 BF16, AMX). What is no x86 is left to torch."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
