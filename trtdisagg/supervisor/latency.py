"""Arithmetic on latencies counted in the buckets of `LATENCY_BOUNDS_S`. Pure.

Counts only grow, so those of a window are a difference; those of several servers are a sum. Percentiles come last:
they can be neither subtracted nor averaged. An empty list is: nothing counted yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S

Counts = Sequence[int]


def since(before: Counts, now: Counts) -> list[int]:
    """What was counted between two moments."""
    return [b - a for a, b in zip(before, now, strict=True)] if before else list(now)


def merged(counts: Iterable[Counts]) -> list[int]:
    """What several servers counted, together."""
    return [sum(column) for column in zip(*(c for c in counts if c), strict=True)]


def percentile_s(counts: Counts, share: float) -> float | None:
    """The latency that `share` of the answers did not exceed, as if those of a bucket were spread evenly over it.

    :returns: None where there is no answer; at most the last bound: nothing is known of what lies above.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below, lower = 0, 0.0
    for count, upper in zip(counts, LATENCY_BOUNDS_S, strict=False):
        if below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return LATENCY_BOUNDS_S[-1]
