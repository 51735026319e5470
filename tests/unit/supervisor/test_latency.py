"""Buckets: differences and sums of counts, and percentiles only of those."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.supervisor import latency


def counts(*seconds: float) -> list[int]:
    found = [0] * (len(LATENCY_BOUNDS_S) + 1)
    for value in seconds:
        found[bisect.bisect_left(LATENCY_BOUNDS_S, value)] += 1
    return found


def test_within_a_bucket_answers_are_spread_evenly() -> None:
    assert latency.percentile_s(counts(*[0.06] * 10), 0.5) == pytest.approx(0.06)
    assert latency.percentile_s(counts(*[0.06] * 10), 1.0) == pytest.approx(0.07)


def test_nothing_counted_has_no_percentile() -> None:
    assert latency.percentile_s([], 0.95) is None
    assert latency.percentile_s(counts(), 0.95) is None


def test_above_the_last_bound_nothing_is_known() -> None:
    assert latency.percentile_s(counts(1000.0), 0.95) == LATENCY_BOUNDS_S[-1]


def test_of_a_window() -> None:
    before, now = counts(5.0, 5.0), counts(5.0, 5.0, 0.01)
    assert latency.since(before, now) == counts(0.01)
    assert latency.since([], now) == now
    assert latency.since([], []) == []


def test_servers_are_added_not_averaged() -> None:
    """The p95 of a fast and a slow server, of which each answers half, is the slow one's; the average is nobody's."""
    both = latency.merged([counts(*[0.01] * 50), [], counts(*[1.0] * 50)])
    assert latency.percentile_s(both, 0.95) == pytest.approx(0.97, abs=0.03)
    assert latency.merged([[], []]) == []


@given(st.lists(st.floats(0.0001, 299), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_the_true_percentile_is_in_the_same_bucket(seconds: list[float], share: float) -> None:
    found = latency.percentile_s(counts(*seconds), share)
    assert found is not None
    rank = max(1, -(-share * len(seconds) // 1))
    true = sorted(seconds)[int(rank) - 1]
    upper = LATENCY_BOUNDS_S[bisect.bisect_left(LATENCY_BOUNDS_S, true)]
    lower = max((b for b in LATENCY_BOUNDS_S if b < upper), default=0.0)
    assert lower <= found <= upper + 1e-9
