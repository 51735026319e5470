"""Servers that slow each other down: what is measured of them, and what a simulation makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from helpers import virtual_time
from helpers.advice import decode_s, prefill_s

from trtdisagg.bench.advise.cost import Cost
from trtdisagg.bench.advise.load import Load, Targets, make_load
from trtdisagg.bench.advise.measure.asking import Answer
from trtdisagg.bench.advise.measure.neighbours import neighbours
from trtdisagg.bench.advise.measure.points import SHORT, Budget, Sizes
from trtdisagg.bench.advise.profile import Neighbours
from trtdisagg.bench.advise.simulate import Design, Servers, run, simulate
from trtdisagg.bench.workloads.lengths import Uniform

SIZES = Sizes(max_prompt=1000, max_streams=16, max_num_tokens=2048)
FACTORS = Neighbours(1.1, 1.3, 1.6, 1.2)


class FakeServer:
    """Takes as long as the formulas say, and longer by what its neighbour does at that moment."""

    def __init__(self, factors: Neighbours) -> None:
        self.work = ""
        self.neighbour = self
        self.lengths: set[int] = set()
        self._factors = factors

    async def ask(self, num_prompt: int, num_output: int) -> Answer:
        (answer,) = await self.together(1, num_prompt, num_output)
        return answer

    async def together(self, num_requests: int, num_prompt: int, num_output: int) -> list[Answer]:
        self.lengths.add(num_prompt)
        asked = asyncio.get_running_loop().time()
        tokens = [await self._compute("prefill", prefill_s(num_prompt))]
        later = [decode_s(num_requests, num_prompt + step) for step in range(1, num_output)]
        tokens += [await self._compute("decode", seconds) for seconds in later]
        return [Answer(asked, tokens)] * num_requests

    async def _compute(self, work: str, seconds: float) -> float:
        self.work = work
        loop = asyncio.get_running_loop()
        beside = self.neighbour.work if self.neighbour is not self else ""
        await asyncio.sleep(seconds * (getattr(self._factors, f"{work}_by_{beside}") if beside else 1.0))
        self.work = ""
        return loop.time()


def measured(factors: Neighbours, seconds: float) -> tuple[Neighbours, FakeServer]:
    one, other = FakeServer(factors), FakeServer(factors)
    one.neighbour, other.neighbour = other, one
    asked: list[Any] = [one, other]

    async def measure() -> Neighbours:
        budget = Budget(seconds, asyncio.get_running_loop().time)
        return await neighbours(*asked, SIZES, prefill_s, budget)

    return virtual_time.run(measure()), one


def test_each_kind_of_work_beside_each() -> None:
    found, _ = measured(FACTORS, 30)
    for name in FACTORS.__struct_fields__:
        assert getattr(found, name) == pytest.approx(getattr(FACTORS, name), rel=0.03), name


def test_who_shares_nothing_is_no_slower() -> None:
    found, _ = measured(Neighbours(), 30)
    assert [getattr(found, name) for name in found.__struct_fields__] == pytest.approx([1.0] * 4, abs=0.01)


def test_with_little_time_prompts_are_shorter() -> None:
    _, hurried = measured(FACTORS, 7 * 4.01 * prefill_s(64))
    _, calm = measured(FACTORS, 7 * 4.01 * prefill_s(256))
    assert hurried.lengths == {SHORT, 64}
    assert calm.lengths == {SHORT, 256}


# --- in a simulation ------------------------------------------------------------------------------------------------


def servers(num: int, *, prompt_s: float = 0.1, step_s: float = 0.01) -> Servers:
    """Steps take the same time however many are in them."""
    decode, prefill = np.full(65, step_s), np.full(65, prompt_s)
    decode[0] = prefill[0] = 0.0
    return Servers(num, 1, Cost(decode, prefill, 0.0, 0.0, 0.0, 0.0), 64, 64, 100_000)


def load(num_output: int, rate: float | None = None, concurrency: int | None = None) -> Load:
    how = {"request_rate": rate, "concurrency": concurrency}
    return make_load(Uniform(64, 64), Uniform(num_output, num_output), num_requests=400, seed=1, **how)  # type: ignore[arg-type]


def step_ms(design: Design, asked: Load) -> float:
    return simulate(design, asked, Targets()).itl_ms.p50


def test_slower_by_how_much_of_the_time_the_others_are_at_work() -> None:
    """A context server that is always busy, one prompt after the other, and a generation server beside it."""
    design = Design(servers(1), servers(1), neighbours=Neighbours(decode_by_prefill=1.5))
    asked = load(20, concurrency=40)
    times, found = run(design, asked)
    assert found.context_busy_s / times.duration_s == pytest.approx(1.0, abs=0.02)
    assert step_ms(design, asked) == pytest.approx(15, rel=0.03)


def test_that_agrees_with_how_busy_they_are() -> None:
    """Who is slower is busier, which slows the other: what comes out is steady."""
    design = Design(servers(2), servers(1), neighbours=Neighbours(1.2, 1.3, 1.5, 1.1))
    asked = load(20, rate=8.0)
    times, found = run(design, asked)
    prefilling, decoding = found.context_busy_s / times.duration_s, found.generation_busy_s / times.duration_s
    assert 0.3 < prefilling < 1.8
    prompt_s = found.context_busy_s / 400
    assert prompt_s == pytest.approx(0.1 * (1 + 0.2 * prefilling / 2 + 0.3 * decoding), rel=0.02)
    assert step_ms(design, asked) == pytest.approx(10 * (1 + 0.5 * prefilling), rel=0.02)


def test_servers_that_do_both_slow_each_other_down() -> None:
    asked = load(20, rate=5.0)
    alone = simulate(Design(None, servers(1), neighbours=FACTORS), asked, Targets())
    assert alone == simulate(Design(None, servers(1)), asked, Targets()), "it has no neighbour"
    two = simulate(Design(None, servers(2), neighbours=FACTORS), asked, Targets())
    assert two.tpot_ms.p50 > simulate(Design(None, servers(2)), asked, Targets()).tpot_ms.p50
