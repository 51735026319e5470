"""What is asked of a server, and what is read from its answers: against one that answers on a clock of its own."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from helpers.advice import decode_s, prefill_s

from trtdisagg.bench.advise.measure.asking import Answer
from trtdisagg.bench.advise.measure.points import (
    MAX_STEPS,
    NUM_STEPS,
    Budget,
    Sizes,
    decodes,
    handovers,
    mixed,
    prefills,
)
from trtdisagg.bench.program import MeasureError

SIZES = Sizes(max_prompt=1000, max_streams=16, max_num_tokens=2048)
HANDOVER_S = 0.004


class FakeServer:
    """Takes the time that the formulas say, times `slowness`; `late_s` between the beginnings of streams."""

    def __init__(self, *, slowness: float = 1.0, late_s: float = 0.0, gap_s: float = 0.0) -> None:
        self.now = 0.0
        self.asked: list[tuple[int, int, int]] = []
        self._slowness = slowness
        self._late_s = late_s
        self._gap_s = gap_s

    async def ask(self, num_prompt: int, num_output: int) -> Answer:
        (answer,) = await self.together(1, num_prompt, num_output)
        return answer

    async def together(self, num_requests: int, num_prompt: int, num_output: int) -> list[Answer]:
        self.asked.append((num_requests, num_prompt, num_output))
        asked, step_s = self.now, self._slowness * decode_s(num_requests, num_prompt)
        answers = []
        for i in range(num_requests):
            first = asked + self._slowness * prefill_s(num_prompt) + i * self._late_s
            later = [first + self._gap_s + n * step_s for n in range(1, num_output)]
            answers.append(Answer(asked, [first, *later]))
        self.now = max(answer.tokens[-1] for answer in answers)
        return answers

    def budget(self, seconds: float) -> Budget:
        return Budget(seconds, lambda: self.now)


def asked_of(server: FakeServer) -> Any:
    return server


def test_prompts_of_all_lengths() -> None:
    server = FakeServer()
    found = anyio.run(prefills, asked_of(server), SIZES, server.budget(60))
    assert [prefill.num_tokens for prefill in found] == [1, 4, 16, 64, 256, 1000]
    assert [prefill.seconds for prefill in found] == pytest.approx([prefill_s(p.num_tokens) for p in found])


def test_a_slow_server_is_asked_for_less_and_in_time() -> None:
    server = FakeServer(slowness=400)
    found = anyio.run(prefills, asked_of(server), SIZES, server.budget(20))
    assert [prefill.num_tokens for prefill in found] == [1, 4, 16]
    assert server.now < 20


def test_streams_in_growing_numbers_and_long_ones_last() -> None:
    server = FakeServer()
    found = anyio.run(decodes, asked_of(server), SIZES, server.budget(60), prefill_s)
    assert [decode.num_streams for decode in found] == [1, 2, 4, 8, 16, 16]
    assert [num_prompt for _, num_prompt, _ in server.asked] == [16] * 5 + [1000]
    assert [d.seconds for d in found[:5]] == pytest.approx([decode_s(d.num_streams, 16) for d in found[:5]])
    assert found[5].seconds == pytest.approx(decode_s(16, 1000))


def test_only_as_many_long_streams_as_there_is_time_for() -> None:
    server = FakeServer()
    found = anyio.run(decodes, asked_of(server), SIZES, server.budget(3), prefill_s)
    long = [(num, num_prompt) for num, num_prompt, _ in server.asked if num_prompt > 16]
    assert len(long) == 1
    assert found[-1].num_streams == long[0][0]
    assert server.now < 3


def test_streams_that_are_over_before_the_last_begins_are_asked_for_longer() -> None:
    server = FakeServer(late_s=NUM_STEPS * decode_s(2, 16))
    found = anyio.run(decodes, asked_of(server), SIZES._replace(max_streams=2), server.budget(60), prefill_s)
    assert (2, 16, MAX_STEPS) in server.asked
    assert found[1].seconds == pytest.approx(decode_s(2, 16))


def test_streams_that_never_meet() -> None:
    server = FakeServer(late_s=10.0)
    with pytest.raises(MeasureError, match="2 streams never ran at the same time"):
        anyio.run(decodes, asked_of(server), SIZES._replace(max_streams=2), server.budget(60), prefill_s)


def test_a_server_that_runs_one_at_a_time() -> None:
    server, sizes = FakeServer(), SIZES._replace(max_streams=1)
    found = anyio.run(decodes, asked_of(server), sizes, server.budget(60), prefill_s)
    assert [decode.num_streams for decode in found] == [1, 1]
    assert anyio.run(mixed, asked_of(server), sizes, server.budget(60)) == []


def test_what_a_handover_adds() -> None:
    server = FakeServer(gap_s=HANDOVER_S)
    found, firsts = anyio.run(handovers, asked_of(server), SIZES, server.budget(60))
    assert [handover.num_tokens for handover in found] == [16, 250, 1000]
    assert [handover.seconds for handover in found] == pytest.approx([HANDOVER_S] * 3)
    assert firsts == pytest.approx([prefill_s(16)] * 3)
