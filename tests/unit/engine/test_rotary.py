"""Rotary tables: positions, scalings, and refusal of what is not known. (Values: test_models.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trtdisagg.engine.models.decoder import Rope
from trtdisagg.engine.rotary import make_rope, rotate
from trtdisagg.errors import ConfigError


def tables(scaling: dict[str, Any] | None = None) -> Rope:
    return make_rope(8, 10000.0, scaling, 32, device=torch.device("cpu"))


def test_angles_are_position_times_frequency() -> None:
    angles = torch.outer(torch.arange(32.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    torch.testing.assert_close(tables().cosines, angles.cos())
    torch.testing.assert_close(tables().sines, angles.sin())


def test_linear_scaling_stretches_positions() -> None:
    torch.testing.assert_close(tables({"rope_type": "linear", "factor": 2.0}).cosines[2::2], tables().cosines[1:16])


def test_rotation_keeps_lengths_and_turns_by_the_difference_of_positions() -> None:
    t = tables()
    x, y = torch.randn(1, 2, 8), torch.randn(1, 2, 8)

    def at(v: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(v, t.cosines[[position]], t.sines[[position]])

    torch.testing.assert_close(at(x, 0), x)
    torch.testing.assert_close(at(x, 9).norm(), x.norm())
    torch.testing.assert_close((at(x, 9) * at(y, 4)).sum(-1), (at(x, 25) * at(y, 20)).sum(-1))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "longrope"}, "type longrope, which is not supported; supported: dynamic, linear, llama3, yarn"),
        ({"rope_type": "llama3", "factor": 4.0}, "of type llama3 does not say its low_freq_factor"),
    ],
)
def test_what_is_not_known_is_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tables(scaling)
