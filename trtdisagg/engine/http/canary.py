"""Whether this server really generates: a request of our own through the whole engine.

warm-up     before it is ready: two tokens, one of the context phase and one of generation
canary      GET /health_generate: one token, now
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.running import Engine
from trtdisagg.engine.request import Output, Request, SamplingParams
from trtdisagg.errors import OverloadedError, UnavailableError
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.tokenizer import Tokenizer

CANARY_TIMEOUT_S = 10.0
_POLL_S = 0.05

_ids: Iterator[int] = itertools.count(-1, -1)
"""Below those of clients' requests."""


async def generate(engine: Engine, tokenizer: Tokenizer, delivery: Delivery, *, num_tokens: int) -> None:
    """Generate so many tokens; the caller sets the deadline.

    :raises OverloadedError: when the queue is full.
    :raises UnavailableError: when the engine fails; why is its first line.
    """
    sampling = SamplingParams(max_tokens=num_tokens, min_tokens=num_tokens, temperature=0)
    request = Request(id=next(_ids), prompt_token_ids=[tokenizer.bos_token_id or 0], sampling=sampling)
    last: Output | None = None
    with delivery.mailbox([request.id]) as mailbox:
        engine.enqueue_request(request)
        try:
            while last is None or last.finish_reason is None:
                last = (await mailbox.take())[-1]
        finally:
            if last is None or last.finish_reason is None:
                engine.cancel_request(request.id)
    if last.finish_reason != "length":
        why = last.error or str(last.finish_reason)
        raise UnavailableError(f"no token could be generated: {why.splitlines()[0]}")


async def canary(engine: Engine, tokenizer: Tokenizer, delivery: Delivery, timeout_s: float = CANARY_TIMEOUT_S) -> None:
    """Generate a token within the deadline. When those of others come first, they show the same.

    :raises UnavailableError: when there was none.
    """
    num_before = _num_computed(engine.stats())
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await generate(engine, tokenizer, delivery, num_tokens=1)
            except OverloadedError:
                while _num_computed(engine.stats()) == num_before:  # noqa: ASYNC110 (counted by the thread of the engine)
                    await asyncio.sleep(_POLL_S)
    except TimeoutError:
        if _num_computed(engine.stats()) == num_before:
            raise UnavailableError(f"no token was generated within {timeout_s:g} s") from None


def _num_computed(stats: Stats) -> int:
    return stats.num_prompt_tokens_total + stats.num_generation_tokens_total
