"""What a server is asked so that its times are known: prompts alone, streams at once, and both together.

Each is bounded by the time that is left, the most telling first: a server that is slow is asked less.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from trtdisagg.bench.advise.measure.asking import Answer, Asking
from trtdisagg.bench.advise.profile import Decode, Handover, Mixed, Prefill
from trtdisagg.bench.program import MeasureError

NUM_ROUNDS = 3
SHORT = 16
"""Tokens of a prompt that hardly counts."""
NUM_STEPS = 24
"""That streams are watched for."""
MAX_STEPS = 4 * NUM_STEPS
"""Where so few are over too soon."""
MAX_LONG_STREAMS = 16
NUM_MIXED_STREAMS = 4
MIXED_TOKENS = 256


class Sizes(NamedTuple):
    """How far it is worth asking."""

    max_prompt: int
    max_streams: int
    max_num_tokens: int
    """Of a step."""


class Budget:
    """Time that a measurement may take, in shares of what is left."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + seconds

    def part(self, share: float) -> Budget:
        return Budget(share * self.left_s, self._clock)

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - self._clock())

    def allows(self, seconds: float) -> bool:
        return seconds <= self.left_s


async def prefills(asking: Asking, sizes: Sizes, budget: Budget) -> list[Prefill]:
    """Prompts of all lengths, each four times the last."""
    found: list[Prefill] = []
    expected_s = 0.0
    for num_tokens in _spread(1, sizes.max_prompt, 4):
        times: list[float] = []
        while len(times) < NUM_ROUNDS and (budget.allows(expected_s) or not found):
            times.append((await asking.ask(num_tokens, 1)).first_s)
            expected_s = times[-1]
        if times:
            found.append(Prefill(num_tokens, median(times)))
        expected_s *= 4
    return found


async def decodes(asking: Asking, sizes: Sizes, budget: Budget, prefill_s: Callable[[int], float]) -> list[Decode]:
    """Short streams in growing numbers, then few long ones, so that the KV's share is seen.

    :param prefill_s: what a prompt of some length takes.
    """
    short, found = budget.part(0.6), list[Decode]()
    for num_streams in _spread(1, sizes.max_streams, 2):
        expected_s = num_streams * prefill_s(SHORT) + 2 * NUM_STEPS * (found[-1].seconds if found else 0.0)
        if not short.allows(expected_s):
            break
        found.append(await _decode(asking, num_streams, SHORT))
    found += await _long_decode(asking, sizes, budget, prefill_s, [decode.num_streams for decode in found])
    return found


async def _long_decode(
    asking: Asking, sizes: Sizes, budget: Budget, prefill_s: Callable[[int], float], counts: list[int]
) -> list[Decode]:
    """As many streams of as many tokens as there is time for: the more KV is read, the better its share is seen."""
    for num_tokens in (sizes.max_prompt, sizes.max_prompt // 2, sizes.max_prompt // 4):
        for num_streams in sorted(counts, reverse=True):
            is_long = num_tokens >= 4 * SHORT and num_streams <= MAX_LONG_STREAMS
            if is_long and budget.allows(1.5 * num_streams * prefill_s(num_tokens)):
                return [await _decode(asking, num_streams, num_tokens)]
    return []


async def mixed(asking: Asking, sizes: Sizes, budget: Budget) -> list[Mixed]:
    """A prompt that is computed while some streams run."""
    num_prompt = max(1, min(MIXED_TOKENS, sizes.max_prompt, sizes.max_num_tokens - NUM_MIXED_STREAMS))
    num_streams = min(NUM_MIXED_STREAMS, sizes.max_streams - 1)
    gaps: list[float] = []
    for _ in range(NUM_ROUNDS if num_streams else 0):
        if gaps and not budget.allows(2 * gaps[-1]):
            break
        streams = [asyncio.ensure_future(asking.ask(SHORT, 2 * NUM_STEPS)) for _ in range(num_streams)]
        try:
            await asyncio.sleep(0)
            await asking.ask(SHORT, NUM_STEPS // 2)  # by then all of them run
            prompt = await asking.ask(num_prompt, 1)
        finally:
            answers = await asyncio.gather(*streams, return_exceptions=True)
        if gap := _gap_of(prompt, [answer for answer in answers if isinstance(answer, Answer)]):
            gaps.append(gap)
    return [Mixed(num_streams, SHORT + 3 * NUM_STEPS // 4, num_prompt, median(gaps))] if gaps else []


async def handovers(asking: Asking, sizes: Sizes, budget: Budget) -> tuple[list[Handover], list[float]]:
    """Requests through the proxy.

    :returns: and the times to first token of the shortest.
    """
    found, firsts = [], []
    for num_tokens in (SHORT, max(2 * SHORT, sizes.max_prompt // 4), max(3 * SHORT, sizes.max_prompt)):
        answers: list[Answer] = []
        while len(answers) < NUM_ROUNDS and (not answers or budget.allows(1.5 * answers[-1].first_s)):
            answers.append(await asking.ask(num_tokens, NUM_STEPS // 2))
        if num_tokens == SHORT:
            firsts = [answer.first_s for answer in answers]
        gaps = [max(0.0, answer.gaps_s[0] - median(answer.gaps_s[1:])) for answer in answers]
        found.append(Handover(num_tokens, median(gaps)))
        if not budget.allows(4 * answers[-1].first_s):
            break
    return found, firsts


async def _decode(asking: Asking, num_streams: int, num_prompt: int) -> Decode:
    """Longer ones, where the first had ended before the last began."""
    for num_steps in (NUM_STEPS, MAX_STEPS):
        answers = await asking.together(num_streams, num_prompt, num_steps)
        if gaps := _gaps_together(answers):
            return Decode(num_streams, num_prompt + num_steps / 2, median(gaps))
    raise MeasureError(f"{num_streams} streams never ran at the same time: is the server busy with something else?")


def _gaps_together(answers: list[Answer]) -> list[float]:
    """While all of them ran."""
    since = max(answer.tokens[0] for answer in answers)
    until = min(answer.tokens[-1] for answer in answers)
    return [
        after - before
        for answer in answers
        for before, after in pairwise(answer.tokens)
        if before >= since and after <= until
    ]


def _gap_of(prompt: Answer, streams: list[Answer]) -> float | None:
    """The step in which a prompt was computed: of each stream the longest gap at that time."""
    spans = [
        [
            after - before
            for before, after in pairwise(stream.tokens)
            if after > prompt.asked and before < prompt.tokens[0]
        ]
        for stream in streams
    ]
    longest = [max(gaps) for gaps in spans if gaps]
    return median(longest) if longest else None


def _spread(first: int, last: int, factor: int) -> Iterator[int]:
    """`1 4 16 50` to 50."""
    number = first
    while number < last:
        yield number
        number *= factor
    yield last
