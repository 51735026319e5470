"""Latencies as counts in fixed buckets, the form that `Stats` carries: what is counted where, and nothing of clocks."""

from __future__ import annotations

from bisect import bisect_left

from trtdisagg.protocol.spec import LATENCY_BOUNDS_S


class LatencyCounts:
    """How many answers took how long, since the start. For one thread only."""

    def __init__(self) -> None:
        self._counts: list[int] = []

    def observe(self, seconds: float) -> None:
        if not self._counts:
            self._counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1

    @property
    def counts(self) -> list[int]:
        """A copy: one number for each of `LATENCY_BOUNDS_S` and one for what lies above; empty: none yet."""
        return list(self._counts)
