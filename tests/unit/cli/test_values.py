"""Values in few characters."""

from __future__ import annotations

import pytest

from trtdisagg.cli import values
from trtdisagg.protocol.parallel import Parallel


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.04, "0"),
        (0.06, "0.1"),
        (9.94, "9.9"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (34_000, "34k"),
    ],
)
def test_rate(value: float, words: str) -> None:
    assert values.rate(value) == words


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, "-"),
        (0.4, "0.4ms"),
        (9.96, "10ms"),
        (999.4, "999ms"),
        (999.6, "1.0s"),
        (9940, "9.9s"),
        (300_000, "300s"),
    ],
)
def test_latency(ms: float | None, words: str) -> None:
    assert values.latency(ms) == words
    assert len(words) <= 5


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_400 * 12, "12d")]
)
def test_duration(seconds: float, words: str) -> None:
    assert values.duration(seconds) == words


@pytest.mark.parametrize(("numbers", "words"), [([], ""), ([3], "3"), ([1, 0, 2, 8], "0-2,8"), ([0, 2, 4], "0,2,4")])
def test_ranges(numbers: list[int], words: str) -> None:
    assert values.ranges(numbers) == words


@pytest.mark.parametrize(
    ("share", "words"), [(0, "····"), (0.5, "██··"), (1, "████"), (0.28, "█▏··"), (7, "████"), (-1, "····")]
)
def test_bar(share: float, words: str) -> None:
    assert values.bar(share, 4).plain == words


def test_sparkline_is_of_the_last_values_the_newest_at_the_right() -> None:
    assert values.sparkline([9, 0, 1, 7], 3) == "▁▂█"
    assert values.sparkline([3], 3) == "  █"
    assert values.sparkline([0.1], 1) == "█", "7 * 0.1 / 0.1 is a little more than 7"
    assert values.sparkline([0, 0], 3) == " ▁▁"
    assert values.sparkline([], 3) == "   "
    assert values.sparkline([1000, 1], 2) == "█▂", "little is not nothing"


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        (Parallel(), "1"),
        (Parallel(tp_size=2, moe_tp_size=2), "tp2 = 2 ranks"),
        (Parallel(tp_size=2, pp_partition=[3, 2], moe_ep_size=2), "tp2 ep2 pp2 = 4 ranks"),
        (Parallel(tp_size=4, attention_dp=True), "dp4 = 4 ranks"),
    ],
)
def test_the_division_of_a_model(parallel: Parallel, words: str) -> None:
    assert values.parallel_words(parallel) == words
