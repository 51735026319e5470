"""What is computed is told in order, read before it is held, and used only if it was not taken back meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from helpers.kv import LAYOUT, GatedTransport, Server, divided, random_cache, server

from trtdisagg.cache import announcements
from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout

pytestmark = pytest.mark.anyio

SEED = 5


class Follower:
    """What a generation server hears."""

    def __init__(self, generation: Server) -> None:
        self.heard: asyncio.Queue[Announcement] = asyncio.Queue()
        self.retracted: asyncio.Queue[AnnouncementKey] = asyncio.Queue()
        generation.transceiver.hearing.follow(self.heard.put_nowait, self.retracted.put_nowait)

    async def next(self) -> Announcement:
        async with asyncio.timeout(60):
            return await self.heard.get()

    async def next_retracted(self) -> AnnouncementKey:
        async with asyncio.timeout(60):
            return await self.retracted.get()


@asynccontextmanager
async def pair(
    theirs: KvLayout = LAYOUT, mine: KvLayout = LAYOUT, **settings: Any
) -> AsyncIterator[tuple[Server, Server, Follower]]:
    """Two servers that have met."""
    async with (
        server("context-0", layout=theirs, seed=SEED, **settings) as context,
        server("generation-0", layout=mine, **settings) as generation,
    ):
        assert (await generation.transceiver.meet(context.address)).error is None
        yield context, generation, Follower(generation)


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        (LAYOUT, LAYOUT),
        (divided(tp_size=2), LAYOUT),
        (LAYOUT, divided(pp=[1, 1])),
        (divided(tp_size=2, attention_dp=True), divided(tp_size=2, attention_dp=True)),
    ],
)
async def test_pieces_arrive_while_nothing_is_held(theirs: KvLayout, mine: KvLayout) -> None:
    dp_rank = theirs.parallel.dp_size - 1
    async with pair(theirs, mine) as (context, generation, follower):
        telling, n = context.transceiver.telling, LAYOUT.tokens_per_block
        number = telling.announce("generation-0", dp_rank, "salt")
        assert number is not None
        for blocks, place in ([7, 3], 0), ([9], 2):
            telling.tell(number, list(range(place * n, (place + len(blocks)) * n)), blocks)
        first, second = await follower.next(), await follower.next()
        assert (first.tokens, second.tokens) == (list(range(2 * n)), list(range(3 * n)))
        assert (second.ticket.blocks, second.cache_salt, second.ticket.dp_rank) == ([7, 3, 9], "salt", dp_rank)
        await generation.transceiver.prefetch(first, [4, 5], 0)
        await generation.transceiver.prefetch(second, [-1, -1, 6], 0)
        expected = random_cache(theirs, SEED)[[7, 3, 9]].permute(1, 2, 3, 0, 4, 5).flatten(3, 4)
        assert torch.equal(generation.read([4, 5, 6], 3 * n), expected)
        assert context.transceiver.stats().num_held_blocks == 0
        telling.retract(number)
        assert await follower.next_retracted() == second.key
        assert not len(telling)


async def test_what_was_taken_back_while_it_was_read_is_not_valid() -> None:
    transport = GatedTransport()
    async with pair(transports=[transport]) as (context, generation, follower):
        telling = context.transceiver.telling
        number = telling.announce("generation-0", 0, None)
        assert number is not None
        telling.tell(number, [1, 2, 3, 4], [7])
        prefetch = asyncio.create_task(generation.transceiver.prefetch(await follower.next(), [4], 0))
        await transport.begun()
        telling.retract(number)
        transport.may_end.set()
        with pytest.raises(HandoverError, match="has taken back what it announced"):
            await prefetch


async def test_a_server_whose_piece_did_not_come_in_time_is_met_anew() -> None:
    """Its links were aborted: the request itself would find them so."""
    transport = GatedTransport()
    async with pair(transports=[transport], transfer_timeout_ms=2000) as (context, generation, follower):
        number = context.transceiver.telling.announce("generation-0", 0, None)
        assert number is not None
        context.transceiver.telling.tell(number, [1, 2, 3, 4], [7])
        prefetch = asyncio.create_task(generation.transceiver.prefetch(await follower.next(), [4], 0))
        await transport.aborted()
        transport.may_end.set()
        with pytest.raises(HandoverError, match="no transfer within"):
            await prefetch
        await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])


async def test_nobody_is_told_who_is_not_connected_or_does_not_listen() -> None:
    async with server("context-0", seed=SEED) as context, server("generation-0") as generation:
        telling = context.transceiver.telling
        assert telling.announce("generation-0", 0, None) is None
        await generation.transceiver.meet(context.address)
        number = telling.announce("generation-0", 0, None)
        assert number is not None
        telling.tell(number, [1, 2, 3, 4], [7])
        telling.retract(number)
        telling.retract(number)
        telling.tell(number, [1, 2, 3, 4], [7])
        # It is connected still.
        await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])


@pytest.mark.parametrize("who", ["context", "generation"])
async def test_the_end_of_a_server_ends_what_was_told(who: str) -> None:
    async with pair() as (context, generation, follower):
        telling = context.transceiver.telling
        number = telling.announce("generation-0", 0, None)
        assert number is not None
        telling.tell(number, [1, 2, 3, 4], [7])
        heard = await follower.next()
        if who == "context":
            generation.transceiver.gone(context.incarnation)
        else:
            context.transceiver.gone(generation.incarnation)
        assert await follower.next_retracted() == heard.key
        with pytest.raises(HandoverError, match="connected no more"):
            await generation.transceiver.prefetch(heard, [4], 0)
        async with asyncio.timeout(60):
            while len(telling):  # the other side learns of it by the end of the connection
                await asyncio.sleep(0)


async def test_a_long_prompt_is_told_in_messages_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_TOKENS_TOLD", 3 * LAYOUT.tokens_per_block)
    async with pair() as (context, _, follower):
        number = context.transceiver.telling.announce("generation-0", 0, None)
        assert number is not None
        tokens, blocks = list(range(8 * LAYOUT.tokens_per_block)), list(range(8))
        context.transceiver.telling.tell(number, tokens, blocks)
        heard = [await follower.next() for _ in range(3)]
        assert [len(h.ticket.blocks) for h in heard] == [3, 6, 8]
        assert (heard[-1].tokens, heard[-1].ticket.blocks) == (tokens, blocks)


async def test_movers_serve_while_anything_is_told() -> None:
    transport = GatedTransport()
    async with pair(transports=[transport]) as (context, _, _):
        number = context.transceiver.telling.announce("generation-0", 0, None)
        assert number is not None
        async with asyncio.timeout(60):
            while transport.serving[-1:] != [True]:
                await asyncio.sleep(0)
            context.transceiver.telling.retract(number)
            while transport.serving[-1:] != [False]:
                await asyncio.sleep(0)
