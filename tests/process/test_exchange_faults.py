"""Two servers of several ranks, in processes of their own, that are killed, frozen and started anew."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.kv_server import ONE, SEED, digest
from helpers.kv import random_cache
from helpers.waiting import DEADLINE_S

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
CACHE = random_cache(ONE, SEED)


def content(blocks: list[int]) -> str:
    """What a server has that read these blocks of another's pool."""
    return digest(CACHE[blocks].permute(1, 2, 3, 0, 4, 5).flatten(3, 4).contiguous())


class Process:
    """A server that runs, and what it said that nobody has asked for yet."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address: dict[str, Any] = {}
        self._said: list[dict[str, Any]] = []

    async def do(self, what: str, **more: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(msgspec.json.encode({"do": what, **more}) + b"\n")
        await self.process.stdin.drain()

    async def said(self, key: str) -> Any:
        """The next line with this key."""
        assert self.process.stdout
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for line in self._said:
                    if key in line:
                        self._said.remove(line)
                        return line[key] if len(line) == 1 else line
                line = await self.process.stdout.readline()
                assert line, f"it has ended: {await self.process.wait()}"
                self._said.append(msgspec.json.decode(line))

    async def hold(self, request_id: int, blocks: list[int], **more: Any) -> Any:
        await self.do("hold", request_id=request_id, blocks=blocks, **more)
        return await self.said("ticket")

    async def claim(self, ticket: Any) -> str | None:
        await self.do("claim", ticket=ticket)
        error: str | None = await self.said("claimed")
        return error

    async def fetch(self, blocks: list[int]) -> Any:
        await self.do("fetch", blocks=blocks)
        return await self.said("fetched")

    async def fetch_until_it_reads(self, blocks: list[int]) -> None:
        await self.do("hold_reads")
        await self.do("fetch", blocks=blocks)
        await self.said("reading")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def started(name: str, incarnation: str, *, two: bool, **settings: Any) -> AsyncIterator[Process]:
    settings = {"lease_ms": 600_000, "transfer_timeout_ms": 600_000, **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fakes.kv_server", name, incarnation, msgspec.json.encode(settings)),
        *(["--two"] if two else []),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        server = Process(process)
        server.address = await server.said("address")
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def both(**context: Any) -> AsyncIterator[tuple[Process, Process]]:
    async with AsyncExitStack() as stack:
        servers = (
            started("context-0", "context-0#1", two=True, **context),
            started("generation-0", "generation-0#1", two=False),
        )
        entering = [stack.enter_async_context(server) for server in servers]
        yield await entering[0], await entering[1]


async def test_a_generation_server_killed_before_during_and_after_a_transfer() -> None:
    """Its end is seen by the connection at once; of what it had not claimed yet, the agent tells."""
    async with both() as (context, generation):
        await generation.do("meet", peer=context.address)
        assert (await generation.said("met"))["error"] is None
        assert await generation.claim(await context.hold(1, [3])) is None
        assert (await generation.fetch([0]))["content"] == content([3])
        assert await context.said("released") == 1
        assert await generation.claim(await context.hold(2, [4, 5])) is None
        claimed = await context.hold(3, [6])
        await context.hold(4, [7], reader="generation-0")
        await context.hold(5, [8])
        await generation.fetch_until_it_reads([1, 2])
        assert await generation.claim(claimed) is None
        await generation.kill()
        assert {await context.said("released"), await context.said("released")} == {2, 3}
        await context.do("gone", incarnation="generation-0#1")
        assert await context.said("released") == 4


async def test_a_context_server_killed_during_a_transfer_and_started_anew_on_the_same_port() -> None:
    async with both() as (context, generation):
        tickets = [await context.hold(i, [i]) for i in range(1, 4)]
        assert await generation.claim(tickets[0]) is None
        after = await generation.fetch([0])
        assert (after["fetched"], after["content"]) == (None, content([1]))
        assert await generation.claim(tickets[1]) is None
        await generation.fetch_until_it_reads([1])
        await context.kill()
        await generation.do("go_on")
        assert "context-0" in (await generation.said("fetched"))["fetched"]
        assert "cannot be reached" in (await generation.claim(tickets[2]) or "")
        async with started("context-0", "context-0#2", two=True, port=context.address["port"]) as again:
            assert "started anew since then" in (await generation.claim(tickets[2]) or "")
            assert await generation.claim(await again.hold(1, [7])) is None
            assert (await generation.fetch([0]))["content"] == content([7])
            assert await again.said("released") == 1

            # One whose connection seems to live, though its host is lost: the agent says so, and nobody waits.
            ticket = await again.hold(2, [8])
            assert await generation.claim(ticket) is None
            await generation.fetch_until_it_reads([1])
            again.process.send_signal(signal.SIGSTOP)
            await generation.do("gone", incarnation="context-0#2")
            await generation.do("go_on")
            assert "it has ended" in (await generation.said("fetched"))["fetched"]
            assert "has ended" in (await generation.claim(ticket) or "")


async def test_a_generation_server_frozen_past_the_lease_uses_nothing_of_what_it_reads() -> None:
    async with both(lease_ms=4000, keepalive_s=600) as (context, generation):  # silence would end it, too
        assert await generation.claim(await context.hold(1, [3])) is None
        await generation.fetch_until_it_reads([0])
        generation.process.send_signal(signal.SIGSTOP)
        assert await context.said("released") == 1  # the lease has ended: the block has another owner now
        generation.process.send_signal(signal.SIGCONT)
        await generation.do("go_on")
        assert "context-0" in (await generation.said("fetched"))["fetched"]
        assert await generation.claim(await context.hold(2, [5])) is None
        assert (await generation.fetch([0]))["content"] == content([5])
