"""A mover behind a connection: what is asked there is done there, and the end of the connection ends all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from helpers.kv import LAYOUT, connected

from trtdisagg.cache.movers.remote import RemoteMover, serve_mover
from trtdisagg.cache.streams import PeerLostError
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.peers import Met, Moved, Part, PeerRanks

pytestmark = pytest.mark.anyio

MEMORY = RankMemory(host="h", port=1, memory=[])
PART = Part(incarnation="i", their_dp_rank=0, their_blocks=[1], my_blocks=[2], num_tokens=3, timeout_ms=4)
PEER = PeerRanks(server="s", incarnation="i", layout=LAYOUT, ranks=[MEMORY])
MET = Met(transport="local", direction="pull", gb_s=1.0, latency_us=2.0)
MOVED = Moved(num_bytes=1, num_descriptors=2, seconds=3.0)


class FakeMover:
    """Fetches last until the test says so."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.was_cancelled = asyncio.Event()
        self.error: Exception | None = None
        self.asked: list[object] = []
        self.serving: asyncio.Queue[bool] = asyncio.Queue()

    async def describe(self) -> RankMemory:
        return MEMORY

    async def meet(self, peer: PeerRanks) -> Met:
        self.asked.append(peer)
        if self.error:
            raise self.error
        return MET

    async def fetch(self, part: Part) -> Moved:
        self.asked.append(part)
        self.has_begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            await self.may_end.wait()  # what is written must come to its end
            raise
        return MOVED

    async def forget(self, incarnation: str) -> None:
        self.asked.append(incarnation)

    def set_serving(self, is_serving: bool) -> None:
        self.serving.put_nowait(is_serving)


class Ends:
    def __init__(self, remote: RemoteMover, mover: FakeMover, running: asyncio.Task, serving: asyncio.Task) -> None:
        self.remote = remote
        self.mover = mover
        self.running = running
        self.serving = serving


@asynccontextmanager
async def both_ends(**settings: float) -> AsyncIterator[Ends]:
    async with connected() as (here, there):
        mover = FakeMover()
        remote = RemoteMover("rank 1", *here, **settings)
        running = asyncio.create_task(remote.run())
        serving = asyncio.create_task(serve_mover(*there, mover))
        try:
            yield Ends(remote, mover, running, serving)
        finally:
            mover.may_end.set()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, PeerLostError):
                await running
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def test_calls_are_done_over_there() -> None:
    async with both_ends() as ends:
        assert await ends.remote.describe() == MEMORY
        assert await ends.remote.meet(PEER) == MET
        ends.mover.may_end.set()
        assert await ends.remote.fetch(PART) == MOVED
        await ends.remote.forget("i")
        ends.remote.set_serving(True)
        assert await asyncio.wait_for(ends.mover.serving.get(), 60)
        assert ends.mover.asked == [PEER, PART, "i"]


async def test_errors_come_back_with_the_rank_that_had_them() -> None:
    async with both_ends() as ends:
        ends.mover.error = HandoverError("no way")
        with pytest.raises(HandoverError, match="rank 1: no way"):
            await ends.remote.meet(PEER)
        ends.mover.error = ZeroDivisionError("oops")
        with pytest.raises(HandoverError, match="rank 1: ZeroDivisionError: oops"):
            await ends.remote.meet(PEER)


async def test_calls_run_at_once() -> None:
    async with both_ends() as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await ends.mover.has_begun.wait()
        assert await ends.remote.describe() == MEMORY
        ends.mover.may_end.set()
        assert await fetch == MOVED


async def test_a_cancelled_fetch_ends_when_nothing_is_written_over_there() -> None:
    async with both_ends() as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await ends.mover.has_begun.wait()
        fetch.cancel()
        await ends.mover.was_cancelled.wait()
        assert not fetch.done()
        ends.mover.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert await ends.remote.describe() == MEMORY


async def test_a_call_cancelled_at_once_is_answered() -> None:
    async with both_ends() as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await asyncio.sleep(0)  # it has been sent
        fetch.cancel()
        ends.mover.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(fetch, 60)


async def test_the_end_of_a_rank_ends_its_calls_and_is_told() -> None:
    async with both_ends() as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await ends.mover.has_begun.wait()
        ends.serving.cancel()
        await ends.mover.was_cancelled.wait()
        ends.mover.may_end.set()
        with pytest.raises(HandoverError, match="rank 1"):
            await fetch
        with pytest.raises(PeerLostError, match="rank 1: the connection to the peer was lost"):
            await ends.running
        with pytest.raises(HandoverError, match="rank 1"):
            await ends.remote.describe()


async def test_a_rank_that_hangs_is_lost() -> None:
    async with connected() as (here, _):
        remote = RemoteMover("rank 1", *here, keepalive_s=0.01, silence_s=0.05)
        describing = asyncio.create_task(remote.describe())
        with pytest.raises(PeerLostError, match=r"rank 1: the peer was silent for 0.05 s"):
            await remote.run()
        with pytest.raises(HandoverError, match="rank 1"):
            await describing


async def test_a_rank_that_only_waits_is_not_lost() -> None:
    async with both_ends(keepalive_s=0.01, silence_s=1.0) as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await asyncio.wait([ends.running, fetch], timeout=1.5)
        ends.mover.may_end.set()
        assert await fetch == MOVED


async def test_the_end_of_rank_0_ends_what_runs() -> None:
    async with both_ends() as ends:
        fetch = asyncio.create_task(ends.remote.fetch(PART))
        await ends.mover.has_begun.wait()
        ends.running.cancel()
        await ends.mover.was_cancelled.wait()
        assert not ends.serving.done()
        ends.mover.may_end.set()
        await asyncio.wait_for(ends.serving, 60)
        with pytest.raises(HandoverError, match="the server ends"):
            await fetch
