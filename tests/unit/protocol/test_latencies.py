"""Latencies as counts."""

from __future__ import annotations

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S, LatencyCounts


def test_nothing_counted_is_nothing_to_send() -> None:
    assert LatencyCounts().counts == []


def test_each_answer_falls_into_one_bucket() -> None:
    latencies = LatencyCounts()
    for seconds in (0.0, 0.001, 0.0011, 299.0, 301.0):
        latencies.observe(seconds)
    counts = latencies.counts
    assert len(counts) == len(LATENCY_BOUNDS_S) + 1
    assert (counts[0], counts[1], counts[-2], counts[-1], sum(counts)) == (2, 1, 1, 1, 5)


def test_counts_are_a_copy() -> None:
    latencies = LatencyCounts()
    latencies.observe(1.0)
    latencies.counts.clear()
    assert sum(latencies.counts) == 1
