"""Asks a server, or the proxy, as clients do and looks at the clock: prompts of exact lengths, never the same twice.

Knows the OpenAI API and nothing of what is asked for.
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import NamedTuple

import aiohttp
import msgspec

from trtdisagg.bench.program import MeasureError

TOKEN_IDS = range(1000, 9000)
"""Of prompts: ordinary words; the smallest vocabulary of a real model has 32,000."""


class Answer(NamedTuple):
    """When what came, in seconds of the monotonic clock."""

    asked: float
    tokens: list[float]

    @property
    def first_s(self) -> float:
        return self.tokens[0] - self.asked

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.tokens)]


class Asking:
    """A client of one endpoint.

    :param seed: of the prompts.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, seed: int) -> None:
        self._session = session
        self._url = f"{url}/v1/completions"
        self._model = model
        self._random = random.Random(seed)

    async def together(self, num_requests: int, num_prompt: int, num_output: int) -> list[Answer]:
        """Ask so many at the same moment.

        :raises MeasureError: one is refused, or hardly a stream.
        """
        return list(await asyncio.gather(*(self.ask(num_prompt, num_output) for _ in range(num_requests))))

    async def ask(self, num_prompt: int, num_output: int) -> Answer:
        """Stream one answer.

        :raises MeasureError: it is refused, or hardly a stream.
        """
        body = {
            "model": self._model,
            "prompt": self._random.choices(TOKEN_IDS, k=num_prompt),
            "max_tokens": num_output,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        asked = time.monotonic()
        try:
            async with self._session.post(self._url, data=msgspec.json.encode(body)) as answer:
                if answer.status != 200:
                    raise MeasureError(f"{self._url} answered {answer.status}: {(await answer.text())[:300]}")
                tokens = [time.monotonic() async for line in answer.content if line.startswith(b'data: {"id"')]
        except (aiohttp.ClientError, TimeoutError) as e:
            raise MeasureError(f"{self._url} does not answer: {e or type(e).__name__}") from None
        # A token whose text is not whole yet comes with the next one, so there may be fewer chunks than tokens.
        if len(tokens) < max(1, num_output // 2):
            raise MeasureError(f"{self._url} streamed {len(tokens)} chunks of {num_output} tokens")
        return Answer(asked, tokens)
