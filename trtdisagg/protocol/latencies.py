"""Latencies as counts in fixed buckets, the form that `Stats` carries: what is counted where, and nothing of clocks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from trtdisagg.protocol.spec import LATENCY_BOUNDS_S


class LatencyCounts:
    """How much took how long, since the start. For one thread only.

    :param bounds_s: upper bounds of the buckets.
    """

    def __init__(self, bounds_s: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self._bounds_s = bounds_s
        self._counts: list[int] = []

    def observe(self, seconds: float) -> None:
        if not self._counts:
            self._counts = [0] * (len(self._bounds_s) + 1)
        self._counts[bisect_left(self._bounds_s, seconds)] += 1

    @property
    def counts(self) -> list[int]:
        """A copy: one number for each of the bounds and one for what lies above; empty: none yet."""
        return list(self._counts)
