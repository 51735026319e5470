"""Rotary position embedding: the angles of a model's positions, and how a head is turned by them.

Formulas: Su et al., "RoFormer" (2021); the scalings as Hugging Face transformers computes them for the same
`rope_scaling`, so that the same file gives the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trtdisagg.engine.models.decoder import Rope
from trtdisagg.errors import ConfigError


def make_rope(
    head_dim: int,
    theta: float,
    scaling: dict[str, Any] | None,
    num_positions: int,
    *,
    device: torch.device,
    factors: Tensor | None = None,
) -> Rope:
    """Compute the angles of positions 0 to num_positions - 1.

    :param scaling: a model's `rope_scaling`, with its `rope_type`.
    :param factors: what a file with `frequency_factors` divides the frequencies by, [head_dim / 2].
    :raises ConfigError: when the scaling is of a type that is not known here.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = _scaled(1.0 / theta**exponents, scaling, factors)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return Rope(cosines=angles.cos().to(device), sines=angles.sin().to(device))


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) by its angle.

    :param x: [tokens, heads, head_dim], of any float type; computed in float32.
    :param cosines: [tokens, head_dim / 2], as are `sines`.
    """
    first, second = x.float().chunk(2, dim=-1)
    cosines, sines = cosines[:, None], sines[:, None]
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _scaled(frequencies: Tensor, scaling: dict[str, Any] | None, factors: Tensor | None) -> Tensor:
    if scaling is None:
        return frequencies
    kind = scaling["rope_type"]
    if kind == "frequency_factors":
        assert factors is not None, "rope type frequency_factors without the factors"
        return frequencies / factors.float()
    if kind not in _SCALINGS:
        known = ", ".join(sorted(_SCALINGS))
        raise ConfigError(f"The model's rope_scaling has type {kind}, which is not supported; supported: {known}")
    try:
        return _SCALINGS[kind](frequencies, scaling)
    except KeyError as e:
        raise ConfigError(f"The model's rope_scaling of type {kind} does not say its {e.args[0]}") from e


def _linear(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    return frequencies / scaling["factor"]


def _llama3(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Slow turns are scaled, fast ones stay, and those in between go over smoothly."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return share * frequencies + (1 - share) * frequencies / scaling["factor"]


_SCALINGS: dict[str, Callable[[Tensor, dict[str, Any]], Tensor]] = {"linear": _linear, "llama3": _llama3}
