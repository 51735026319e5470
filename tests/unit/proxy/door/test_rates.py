"""How much a client may ask, by a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.proxy.door.rates import Allowance, Bucket, say_duration


def test_a_minutes_requests_may_come_at_once_and_then_as_they_flow_in() -> None:
    bucket = Bucket(6, now=100.0)
    assert [bucket.take(100.0) for _ in range(7)] == [True] * 6 + [False]
    assert bucket.wait_s(100.0) == pytest.approx(10)
    assert not bucket.take(109.9)
    assert bucket.take(110.1)
    assert not bucket.take(110.2)
    assert bucket.full_in_s(110.1) == pytest.approx(60, abs=0.2)


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=300))
def test_never_more_than_what_was_held_and_flowed_in(per_minute: int, gaps: list[float]) -> None:
    bucket, now, taken = Bucket(per_minute, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        promised = bucket.wait_s(now) == 0
        got = bucket.take(now)
        assert got == promised or bucket.wait_s(now) < 1e-6
        taken += got
        assert taken <= per_minute + now * per_minute / 60 + 1e-6
        assert 0 <= bucket.level(now) <= per_minute


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    bucket = Bucket(2, 100.0)
    assert bucket.take(100.0)
    assert bucket.level(50.0) == 1


def test_other_limits_hold_from_now_on() -> None:
    allowance = Allowance(2, 1, 0.0)
    assert allowance.bucket is not None
    assert allowance.bucket.take(0.0)
    allowance.begin()
    allowance.change(2, 5, 0.0)
    assert (allowance.bucket.level(0.0), allowance.max_in_flight, allowance.look(0.0)) == (1, 5, 1)
    allowance.change(10, 5, 0.0)
    assert allowance.headers(0.0) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-reset-requests": "0ms",
    }
    allowance.change(None, None, 0.0)
    assert allowance.headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0ms"), (0.0201, "21ms"), (1.5, "1.5s"), (59.99, "1m0s"), (360, "6m0s"), (75.25, "1m15.3s")],
)
def test_durations_are_said_as_openai_says_them(seconds: float, said: str) -> None:
    assert say_duration(seconds) == said
