"""Numbers of the quantized tensors of GGUF files: common kinds at several times the gguf library's speed, others by it.

A kind is a block of so many bytes for so many values. The rows below are one block each.

    Q4_0   d q[16]                   d (q - 8)            q: low halves of the bytes, then high halves
    Q4_1   d m q[16]                 d q + m
    Q8_0   d q[32]                   d q
    Q4_K   d m s[12] q[128]          d s q - m t          8 groups of 32; s and t have 6 bits, packed
    Q5_K   d m s[12] h[32] q[128]    the same, with a fifth bit in h
    Q6_K   q[128] h[64] s[16] d      d s (q - 32)         16 groups of 16; two of the six bits in h

Layout: ggml's block_q4_0 and so on; tested against the library bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as dequantize_by_library
from torch import Tensor

_TILE_VALUES = 2**18
"""Computed at once, so that what is in between stays in the cache."""


def block_of(kind: int) -> tuple[int, int]:
    """
    :param kind: a `GGMLQuantizationType`.
    :return: values, and the bytes they take.
    :raises ValueError: when there is no such kind.
    """
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(values), int(size)


def num_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """
    :raises ValueError: when there is no such kind, or rows do not end with a block.
    """
    values, size = block_of(kind)
    if shape[-1] % values:
        raise ValueError(f"rows of {shape[-1]} values are not made of blocks of {values}")
    return prod(shape) // values * size


def dequantize(raw: Tensor, kind: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """
    :param raw: uint8 [num_bytes(kind, shape)]
    :param dtype: of the result where the values are quantized; others keep their precision.
    :raises ValueError: when the kind is one that nobody can read.
    """
    kind = GGMLQuantizationType(kind)
    if kind in _PLAIN:
        return raw.view(_PLAIN[kind]).view(shape)
    values, size = GGML_QUANT_SIZES[kind]
    tile = _FAST.get(kind) or _by_library(kind)
    out = torch.empty(prod(shape) // values, values, dtype=dtype)
    num_blocks = max(1, _TILE_VALUES // values)
    for source, target in zip(raw.view(-1, size).split(num_blocks), out.split(num_blocks), strict=True):
        target.copy_(tile(source).reshape(target.shape))
    return out.view(shape)


_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F64: torch.float64,
}


def _by_library(kind: GGMLQuantizationType) -> Callable[[Tensor], Tensor]:
    def tile(blocks: Tensor) -> Tensor:
        try:
            # It goes through 16 rows at a time; where a row ends means nothing to it.
            rows = np.ascontiguousarray(blocks.numpy()).reshape(1, -1)
            return torch.from_numpy(np.array(dequantize_by_library(rows, kind)))
        except NotImplementedError as e:
            raise ValueError(str(e)) from e

    return tile


def _halves(blocks: Tensor) -> Tensor:
    """float16 numbers as float32, [blocks, count]."""
    return blocks.contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[blocks, groups, n] -> [blocks, groups, 2, n]: low halves of the bytes, then high halves."""
    return torch.stack((packed & 15, packed >> 4), dim=2)


def _q4_0(blocks: Tensor) -> Tensor:
    scale = _halves(blocks[:, :2])
    return _nibbles(blocks[:, None, 2:]).flatten(1).float().sub_(8).mul_(scale)


def _q4_1(blocks: Tensor) -> Tensor:
    scale, least = _halves(blocks[:, :4]).split(1, dim=1)
    return _nibbles(blocks[:, None, 4:]).flatten(1).float().mul_(scale).add_(least)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_halves(blocks[:, :2]))


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled(blocks, _nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return _scaled(blocks, _nibbles(blocks[:, 48:].view(-1, 4, 32)).view(-1, 8, 32) | fifth << 4)


def _scaled(blocks: Tensor, numbers: Tensor) -> Tensor:
    """
    :param numbers: [blocks, 8, 32]
    """
    scale, least = _halves(blocks[:, :4]).split(1, dim=1)
    low, other, high = blocks[:, 4:16].split(4, dim=1)
    scales = torch.cat((low & 63, high & 15 | low >> 2 & 48), dim=1)
    leasts = torch.cat((other & 63, high >> 4 | other >> 2 & 48), dim=1)
    return numbers.float().mul_((scale * scales)[:, :, None]).sub_((least * leasts)[:, :, None])


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].view(-1, 2, 64)).view(-1, 8, 32)
    high = blocks[:, 128:192].view(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    numbers = (low | high.view(-1, 8, 32) << 4).view(-1, 16, 16).float().sub_(32)
    scales = _halves(blocks[:, 208:]) * blocks[:, 192:208].view(torch.int8)
    return numbers.mul_(scales[:, :, None])


_FAST: dict[GGMLQuantizationType, Callable[[Tensor], Tensor]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q5_K: _q5_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
