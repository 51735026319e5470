"""Rates over the last beats, latencies over the last minute."""

from __future__ import annotations

import pytest

from tests.unit.supervisor.test_latency import counts
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.rates import LANDMARK_S, NUM_BEATS, Rates, Window, lately, latencies, rates


def beaten(*stats: Stats, every_s: float = 0.5) -> tuple[Window, float]:
    """A window after these beats, and the time of the last."""
    window, at = Window(), 100.0
    for s in stats:
        at += every_s
        window = window.add(at, s)
    return window, at


def test_rates_are_those_of_the_last_beats() -> None:
    idle = [Stats()] * 20
    busy = [
        Stats(
            num_prompt_tokens_total=50 * i,
            num_generation_tokens_total=5 * i,
            num_requests_total=2 * i,
            num_failed_total=i,
            num_transfer_bytes_total=10**9 * i,
            transfer_seconds_total=0.25 * i,
        )
        for i in range(NUM_BEATS)
    ]
    window, now = beaten(*idle, *busy)
    found = rates(window, now)
    assert (found.tokens_in_s, found.tokens_out_s, found.requests_s, found.failures_s) == (100, 10, 4, 2)
    assert found.transfer_gb_s == pytest.approx(4.0), "the link's speed, not its use"
    assert lately(window, lambda s: s.num_requests_total) == 18


def test_one_beat_is_no_rate_and_none_is_nothing() -> None:
    assert rates(Window(), 0.0) == Rates()
    assert rates(*beaten(Stats(num_requests_total=5))) == Rates()
    assert lately(Window(), lambda s: s.num_requests_total) == 0


def test_of_a_silent_child_nobody_knows_what_it_does() -> None:
    window, now = beaten(Stats(), Stats(num_generation_tokens_total=50))
    assert rates(window, now + 1).tokens_out_s == 100
    assert rates(window, now + 60).tokens_out_s == 0


def test_latencies_of_the_last_minute() -> None:
    slow = [1.0] * 10
    minutes = [Stats(first_token_counts=counts(*slow)) for _ in range(140)]
    fast = [Stats(first_token_counts=counts(*slow, *[0.01] * (i + 1))) for i in range(10)]
    window, now = beaten(*minutes, *fast)
    assert latencies(window, now).first_token == counts(*[0.01] * 10), "what is older than a minute does not count"
    assert rates(window, now).ttft_p95_ms == pytest.approx(10, rel=0.1)
    assert rates(window, now).tpot_p95_ms is None
    window, now = beaten(*minutes[:20], *fast)
    assert sum(latencies(window, now).first_token) == 20, "a young child has counted all of it within the minute"


def test_answers_leave_the_window_while_nothing_comes() -> None:
    window, now = beaten(*[Stats(per_token_counts=counts(0.1))] * 10)
    assert latencies(window, now + 54).per_token == counts(0.1)
    window, now = beaten(*[Stats(per_token_counts=counts(0.1))] * 140)
    assert sum(latencies(window, now).per_token) == 0


def test_a_window_is_bounded() -> None:
    window, _ = beaten(*[Stats()] * 1000)
    assert len(window.beats) == NUM_BEATS
    assert len(window.landmarks) <= 60 / LANDMARK_S + 2
