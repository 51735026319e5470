"""Clients that come at a steady pace, whoever is answered: what a proxy that has too much to do says to them."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import aiohttp
import msgspec
from fakes import words
from helpers.serving import MODEL


class Seen(NamedTuple):
    """One request, as its client saw it."""

    status: int
    seconds: float
    retry_after: str | None
    is_right: bool
    """The answer is the one to this prompt; of a refusal, it says so in OpenAI's form."""


async def come(url: str, num_requests: int, *, requests_s: float, num_tokens: int) -> list[Seen]:
    """Ask so many different questions at this rate, and wait for all answers."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        begin, asking = time.monotonic(), []
        for i in range(num_requests):
            await asyncio.sleep(max(0.0, begin + i / requests_s - time.monotonic()))
            asking.append(tasks.create_task(_ask(http, url, f"question {i}", num_tokens)))
    return [task.result() for task in asking]


async def _ask(http: aiohttp.ClientSession, url: str, prompt: str, num_tokens: int) -> Seen:
    began = time.monotonic()
    fields = {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens}
    async with http.post(f"{url}/v1/completions", json=fields) as answer:
        body = msgspec.json.decode(await answer.read())
    seconds, retry_after = time.monotonic() - began, answer.headers.get("Retry-After")
    if answer.status == 200:
        return Seen(200, seconds, retry_after, body["choices"][0]["text"] == words.answer(prompt, num_tokens))
    return Seen(answer.status, seconds, retry_after, body["error"]["code"] == "queue_full")


def percentile(seen: list[Seen], status: int, share: float) -> float:
    """Seconds that this share of the requests with a status took at most."""
    times = sorted(one.seconds for one in seen if one.status == status)
    return times[min(len(times) - 1, int(share * len(times)))]
