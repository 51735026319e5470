"""Weight-only int8: what a linear layer's weight becomes when it is loaded with `quantization: int8`.

Symmetric, a scale for each output and group of inputs: weight = number * scale, the largest of a group is 127. What
computes with it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trtdisagg.engine.models.decoder import Linear

Empty = Callable[[tuple[int, ...], torch.dtype], Tensor]

_GROUPS = (64, 32, 16)
"""Inputs that share a scale: the first that divides the inputs. A scale takes 4 bytes, a sixteenth of 64 numbers."""
_VALUES_AT_ONCE = 2**20
"""So that what is between a weight and its numbers stays in the cache."""


def quantize(linear: Linear, empty: Empty | None = None) -> Linear:
    """
    :param linear: of floating point numbers.
    :param empty: gives memory for numbers and scales; None: torch's.
    :return: the same layer with int8 weights; as it was where its inputs do not fall into groups.
    """
    num_outputs, num_inputs = linear.weight.shape
    group = next((g for g in _GROUPS if num_inputs % g == 0), None)
    if group is None:
        return linear
    make = empty or (lambda shape, dtype: torch.empty(shape, dtype=dtype, device=linear.weight.device))
    numbers = make((num_outputs, num_inputs), torch.int8)
    scales = make((num_outputs, num_inputs // group), torch.float32)
    rows = max(1, _VALUES_AT_ONCE // num_inputs)
    for begin in range(0, num_outputs, rows):
        part = slice(begin, begin + rows)
        _quantize_rows(linear.weight[part], numbers[part], scales[part])
    return Linear(weight=numbers, scales=scales, bias=linear.bias)


def _quantize_rows(weight: Tensor, numbers: Tensor, scales: Tensor) -> None:
    groups = weight.float().unflatten(1, (scales.shape[1], -1))
    largest = groups.abs().amax(-1)
    scales.copy_(largest / 127)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    numbers.copy_((groups * inverse[:, :, None]).round_().flatten(1))
