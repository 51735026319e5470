"""How far a loop has come, so that others can tell one that is slow from one that is stuck."""

from __future__ import annotations

import time
from typing import NamedTuple


class Pulse(NamedTuple):
    """A loop, as seen from outside."""

    num_ticks: int
    """Only grows, and does so many times a second while the loop computes."""
    is_working: bool
    """It has something to do: while this is so and `num_ticks` stands still, it is stuck."""


class Progress:
    """Ticked by one thread whenever it got a bit further, also within a long piece of work; any thread may look."""

    def __init__(self) -> None:
        self.num_ticks = 0
        self.last_tick = time.monotonic()

    def tick(self) -> None:
        self.last_tick = time.monotonic()
        self.num_ticks += 1

    @property
    def silence_s(self) -> float:
        """Since the last tick."""
        return time.monotonic() - self.last_tick
