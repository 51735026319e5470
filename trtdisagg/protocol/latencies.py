"""Latencies as counts in fixed buckets, the form that `Stats` carries: what is counted where, and nothing of clocks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

LATENCY_BOUNDS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds of the buckets in which latencies are counted; percentiles of a window come from differences of counts,
and counts of several servers may be added."""
TRANSFER_BOUNDS_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""The same for transfers of KV, which may be much shorter."""


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
