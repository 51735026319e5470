"""When conversations begin."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from trtdisagg.bench.serve.arrivals import arrivals
from trtdisagg.bench.serve.load import Load


def times(**said: Any) -> list[float]:
    load = Load(url="http://x", **said)
    return arrivals(load, load.num_prompts)


def gaps(**said: Any) -> list[float]:
    return [after - before for before, after in pairwise(times(**said))]


def test_without_a_rate_all_are_due_at_once() -> None:
    assert times(num_prompts=3) == [0.0, 0.0, 0.0]


def test_constant_gaps() -> None:
    assert times(num_prompts=4, request_rate=8.0, arrivals="constant") == pytest.approx([0, 0.125, 0.25, 0.375])


def test_exponential_gaps_have_their_mean_and_spread() -> None:
    found = gaps(num_prompts=20_001, request_rate=4.0)
    mean = sum(found) / len(found)
    spread = (sum((gap - mean) ** 2 for gap in found) / len(found)) ** 0.5
    assert mean == pytest.approx(0.25, rel=0.03)
    assert spread == pytest.approx(0.25, rel=0.05)
    assert sum(gap > 0.25 for gap in found) / len(found) == pytest.approx(0.368, abs=0.015)  # 1 / e


@pytest.mark.parametrize("burstiness", [0.25, 9.0])
def test_burstiness_changes_the_spread_alone(burstiness: float) -> None:
    found = gaps(num_prompts=20_001, request_rate=4.0, burstiness=burstiness)
    mean = sum(found) / len(found)
    spread = (sum((gap - mean) ** 2 for gap in found) / len(found)) ** 0.5
    assert mean == pytest.approx(0.25, rel=0.06)
    assert spread / mean == pytest.approx(burstiness**-0.5, rel=0.08)


def test_the_same_seed_has_the_same_times() -> None:
    assert times(num_prompts=50, request_rate=2.0, seed=3) == times(num_prompts=50, request_rate=2.0, seed=3)
    assert times(num_prompts=50, request_rate=2.0, seed=3) != times(num_prompts=50, request_rate=2.0, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_a_short_run_has_its_rate_too(seed: int) -> None:
    """Or else goodput of twenty requests lies above the rate that was offered, by chance."""
    assert times(num_prompts=21, request_rate=2.0, seed=seed)[-1] == pytest.approx(10)
    assert times(num_prompts=1, request_rate=2.0, seed=seed) == [0.0]


@pytest.mark.parametrize(("begin", "end"), [(2.0, 10.0), (10.0, 2.0), (5.0, 5.0)])
def test_a_ramp_is_even_in_time(begin: float, end: float) -> None:
    """The rate at each time is on the line between both, for as long as it takes to send them all."""
    num_prompts = 6000
    found = times(num_prompts=num_prompts, request_rate=begin, ramp_to=end, arrivals="constant")
    whole_s = 2 * num_prompts / (begin + end)
    assert found[-1] == pytest.approx(whole_s, rel=0.001)
    for part in (0.1, 0.5, 0.9):
        at = found[next(i for i, time in enumerate(found) if time >= part * whole_s) :][:50]
        assert 49 / (at[-1] - at[0]) == pytest.approx(begin + (end - begin) * part, rel=0.05)


@pytest.mark.parametrize(("begin", "end"), [(2.0, 10.0), (10.0, 2.0)])
def test_arrivals_of_a_random_ramp_are_in_order(begin: float, end: float) -> None:
    assert all(gap >= 0 for gap in gaps(num_prompts=2000, request_rate=begin, ramp_to=end, burstiness=0.5))
