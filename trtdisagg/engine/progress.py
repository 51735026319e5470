"""How far a loop has come, so that others can tell one that is slow from one that is stuck."""

from __future__ import annotations

import time
from collections.abc import Callable
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
        self._num_own = 0
        self._count: Callable[[], int] = lambda: 0
        self._num_seen = 0
        self._last_seen = time.monotonic()

    def tick(self) -> None:
        self._last_seen = time.monotonic()
        self._num_own += 1

    def add(self, count: Callable[[], int]) -> None:
        """Count also what somebody else counts who cannot call `tick`.

        :param count: a number that only grows; asked from any thread.
        """
        before = self._count
        self._count = lambda: before() + count()

    @property
    def num_ticks(self) -> int:
        return self._num_own + self._count()

    @property
    def silence_s(self) -> float:
        """Since the last tick or, of those that others count, since they were first seen."""
        num_ticks = self.num_ticks
        if num_ticks != self._num_seen:
            self._num_seen, self._last_seen = num_ticks, time.monotonic()
        return time.monotonic() - self._last_seen
