"""What two servers of one machine cost each other: each at work alone, then both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from trtdisagg.bench.advise.measure.asking import Asking
from trtdisagg.bench.advise.measure.points import MAX_STEPS, MIXED_TOKENS, NUM_MIXED_STREAMS, SHORT, Budget, Sizes
from trtdisagg.bench.advise.profile import Neighbours

NUM_PROMPTS = 4
"""That there is to be time for, one after the other."""
NUM_PIECES = 7
"""Prompts, and streams, on either server alone, and three times on both."""


class Span(NamedTuple):
    """A prompt, or from one token of a stream to the next."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


Work = Callable[[Asking, asyncio.Event], Coroutine[Any, Any, list[Span]]]
"""Goes on until it is told to stop."""


async def neighbours(
    one: Asking, other: Asking, sizes: Sizes, prefill_s: Callable[[int], float], budget: Budget
) -> Neighbours:
    """
    :param sizes: of the smaller server.
    :param prefill_s: what a prompt of some length takes.
    """
    seconds = budget.left_s / NUM_PIECES
    num_prompt, num_streams = min(MIXED_TOKENS, sizes.max_prompt), min(NUM_MIXED_STREAMS, sizes.max_streams)
    while num_prompt > SHORT and NUM_PROMPTS * prefill_s(num_prompt) > seconds:
        num_prompt //= 2

    async def prefill(asking: Asking, stop: asyncio.Event) -> list[Span]:
        spans = []
        while not stop.is_set():
            answer = await asking.ask(num_prompt, 1)
            spans.append(Span(answer.asked, answer.tokens[0]))
        return spans

    async def decode(asking: Asking, stop: asyncio.Event) -> list[Span]:
        spans = []
        while not stop.is_set():
            answers = await asking.together(num_streams, SHORT, MAX_STEPS)
            spans += [Span(*tokens) for answer in answers for tokens in pairwise(answer.tokens)]
        return sorted(spans)

    works: list[tuple[Asking, Work]] = [(asking, work) for asking in (one, other) for work in (prefill, decode)]
    alone = {work: (await _at_work([work], seconds))[0] for work in works}

    async def slowed(*works: tuple[Asking, Work]) -> list[float]:
        together = await _at_work(works, seconds)
        return [both_s / alone[work] for work, both_s in zip(works, together, strict=True)]

    prefill_by_prefill = await slowed((one, prefill), (other, prefill))
    decode_by_decode = await slowed((one, decode), (other, decode))
    prefill_by_decode, decode_by_prefill = await slowed((one, prefill), (other, decode))
    return Neighbours(
        prefill_by_prefill=_factor(*prefill_by_prefill),
        prefill_by_decode=_factor(prefill_by_decode),
        decode_by_prefill=_factor(decode_by_prefill),
        decode_by_decode=_factor(*decode_by_decode),
    )


async def _at_work(works: Sequence[tuple[Asking, Work]], seconds: float) -> list[float]:
    """The median of what each does, of that which it does while all are at work."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    found = await asyncio.gather(*(work(asking, stop) for asking, work in works))
    begin, end = max(spans[0].begin for spans in found), min(spans[-1].end for spans in found)
    # A piece that is longer than all of the other's was disturbed for some of its time: that is all that can be said.
    during = [[span for span in spans if span.begin >= begin and span.end <= end] or spans for spans in found]
    return [median(span.seconds for span in spans) for spans in during]


def _factor(*measured: float) -> float:
    """Nothing becomes faster by a neighbour."""
    return max(1.0, sum(measured) / len(measured))
