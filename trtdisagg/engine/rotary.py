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
    frequencies = _scaled(1.0 / theta**exponents, theta, scaling, factors)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    length = _length(scaling)
    return Rope(cosines=(angles.cos() * length).to(device), sines=(angles.sin() * length).to(device))


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) by its angle.

    :param x: [tokens, heads, head_dim], of any float type; computed in float32.
    :param cosines: [tokens, head_dim / 2], as are `sines`.
    """
    first, second = x.float().chunk(2, dim=-1)
    cosines, sines = cosines[:, None], sines[:, None]
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _scaled(frequencies: Tensor, theta: float, scaling: dict[str, Any] | None, factors: Tensor | None) -> Tensor:
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
        return _SCALINGS[kind](frequencies, theta, scaling)
    except KeyError as e:
        raise ConfigError(f"The model's rope_scaling of type {kind} does not say its {e.args[0]}") from e


def _dynamic(frequencies: Tensor, theta: float, scaling: dict[str, Any]) -> Tensor:  # noqa: ARG001 (same shape as the others)
    """Scaled only for sequences longer than the model's `max_position_embeddings`, and those are refused."""
    return frequencies


def _linear(frequencies: Tensor, theta: float, scaling: dict[str, Any]) -> Tensor:  # noqa: ARG001 (likewise)
    return frequencies / scaling["factor"]


def _llama3(frequencies: Tensor, theta: float, scaling: dict[str, Any]) -> Tensor:  # noqa: ARG001 (likewise)
    """Slow turns are scaled, fast ones stay, and those in between go over smoothly."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return share * frequencies + (1 - share) * frequencies / scaling["factor"]


def _yarn(frequencies: Tensor, theta: float, scaling: dict[str, Any]) -> Tensor:
    """The same with borders in pairs of values, rounded outwards: Peng et al., "YaRN" (2023), section 3.2."""
    num_pairs = len(frequencies)

    def pair_of(turns: float) -> float:
        """The pair that turns so often within the positions of the training."""
        return (
            num_pairs * math.log(scaling["original_max_position_embeddings"] / (turns * 2 * math.pi)) / math.log(theta)
        )

    first, last = pair_of(scaling.get("beta_fast") or 32.0), pair_of(scaling.get("beta_slow") or 1.0)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * num_pairs - 1)
    slowness = ((torch.arange(num_pairs) - first) / max(last - first, 0.001)).clamp(0, 1)
    return slowness * frequencies / scaling["factor"] + (1 - slowness) * frequencies


def _length(scaling: dict[str, Any] | None) -> float:
    """What turned heads are multiplied by: only YaRN makes them longer, so that scores are sharper (section 3.3)."""
    if scaling is None or scaling["rope_type"] != "yarn":
        return 1.0
    if (length := scaling.get("attention_factor")) is not None:
        return float(length)
    scale, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if scale and all_dims:
        return _sharper(scaling["factor"], scale) / _sharper(scaling["factor"], all_dims)
    return _sharper(scaling["factor"])


def _sharper(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


_SCALINGS: dict[str, Callable[[Tensor, float, dict[str, Any]], Tensor]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
