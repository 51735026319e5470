"""Sparklines: growth per interval, through deaths and silences."""

from __future__ import annotations

from trtdisagg.protocol.control import HISTORY_S
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.history import NUM_INTERVALS, History, counted


def run(history: History, beats: list[tuple[float, int]]) -> History:
    for at, total in beats:
        history = history.add(at, total)
    return history


def test_growth_per_second_of_each_interval() -> None:
    history = run(History(), [(i / 2, 10 * i) for i in range(17)])
    assert history.values == (20.0,) * 4
    assert history.until(8.0) == [20.0] * 4


def test_beats_that_are_a_little_late_or_early_do_not_shift_the_intervals() -> None:
    beats = [(10 + i / 2 + (0.1 if i % 2 else -0.1), i) for i in range(41)]
    assert len(run(History(), beats).values) == 10


def test_between_intervals_a_beat_changes_nothing() -> None:
    history = run(History(), [(0.0, 0)])
    assert history.add(1.0, 7) is history


def test_a_new_incarnation_counts_from_zero() -> None:
    assert run(History(), [(0.0, 0), (2.0, 1000), (4.0, 10)]).values == (500.0, 5.0)


def test_silence_is_zero_and_what_was_done_in_it_is_spread_over_it() -> None:
    history = run(History(), [(0.0, 0), (2.0, 10)])
    assert history.until(4.0) == [5.0]
    assert history.until(10.0) == [5.0, 0.0, 0.0, 0.0]
    assert history.add(10.0, 50).values == (5.0, *(5.0,) * 4)


def test_a_history_is_bounded() -> None:
    history = run(History(), [(HISTORY_S * i, i) for i in range(200)])
    assert len(history.values) == NUM_INTERVALS
    assert history.until(1e9) == [0.0] * NUM_INTERVALS
    assert len(history.add(1e9, 5).values) == NUM_INTERVALS


def test_nothing_heard_yet() -> None:
    assert History().until(100.0) == []


def test_what_a_role_is_there_for() -> None:
    stats = Stats(num_prompt_tokens_total=1, num_generation_tokens_total=2, num_requests_total=3)
    assert [counted(role, stats) for role in ("context", "generation", "both", "proxy")] == [1, 2, 2, 3]
