"""Rank 0's end of the gang: it gathers the other ranks, has them compute along, and lets them go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial

from torch import Tensor

from trtdisagg.cache.movers.remote import RemoteMover
from trtdisagg.cache.streams import PeerLostError
from trtdisagg.engine.gang.frames import Frames, StreamEndedError, encode
from trtdisagg.engine.gang.gang import LAST_WORDS_S, Gang
from trtdisagg.engine.gang.meeting import Gathering, Members
from trtdisagg.engine.gang.messages import FromFollower
from trtdisagg.engine.gang.sockets import open_stream
from trtdisagg.engine.gang.ways import Way, open_way
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Step
from trtdisagg.engine.threads import in_daemon
from trtdisagg.protocol.spec import EngineSpec


class LeaderRunner:
    """Computes a step with all ranks of the server.

    :param runner: rank 0's own share; its last stage gives the logits.
    """

    def __init__(self, runner: Runner, gang: Gang) -> None:
        self._runner = runner
        self._gang = gang

    def run(self, step: Step) -> Tensor:
        """As `Runner.run`.

        :raises EngineBrokenError: when a rank is gone, or the step failed here: the others cannot be called back.
        """
        self._gang.compute(step)
        try:
            return self._runner.run(step)
        except Exception as e:
            raise self._gang.broken_by(e) from e


class Opened:
    """A gang whose ranks are here and reach each other.

    :param kv: the connections for KV, by rank.
    """

    ranks: Ranks

    def __init__(self, gang: Gang, kv: Mapping[int, Frames[FromFollower]]) -> None:
        self.gang = gang
        self._kv = kv
        self._attending = {rank: asyncio.create_task(self._attend(rank)) for rank in kv}
        """Each rank, until it has a mover."""
        self._asking: list[asyncio.Task[None]] = []

    async def movers(self) -> list[RemoteMover]:
        """Those of the other ranks, in order; once, when all are loaded. They can be asked until the gang is let go."""
        return [await self._mover(rank) for rank in sorted(self._kv)]

    async def close(self) -> None:
        """Let all ranks go. None is asked for KV any more."""
        await self.gang.close()
        tasks = [*self._attending.values(), *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in self._kv.values():
            stream.close()

    async def _mover(self, rank: int) -> RemoteMover:
        attending = self._attending.pop(rank)
        attending.cancel()
        await asyncio.wait([attending])
        mover = RemoteMover(f"rank {rank}", *await open_stream(self._kv[rank].sock))
        self._asking.append(asyncio.create_task(self._ask(rank, mover)))
        return mover

    async def _attend(self, rank: int) -> None:
        """Notice the end of a rank that is not asked for KV: when its host vanishes in the middle of a step, nothing
        else shows it."""
        sock = self._kv[rank].sock
        sock.settimeout(0)
        how = "its connection has ended"
        try:
            await asyncio.get_running_loop().sock_recv(sock, 1)
        except OSError as e:
            how = e.strerror or str(e)
        await self._lose(rank, f"cannot be reached any more: {how}")

    async def _ask(self, rank: int, mover: RemoteMover) -> None:
        try:
            await mover.run()
        except PeerLostError as e:
            await self._lose(rank, f"cannot be asked for KV: {e.message}")

    async def _lose(self, rank: int, why: str) -> None:
        await asyncio.wait([self.gang.ended], timeout=LAST_WORDS_S)  # if it has ended, its other stream says so
        self.gang.lose(rank, why)


@contextlib.asynccontextmanager
async def open_gang(
    spec: EngineSpec, secret: bytes, on_lost: Callable[[str], None] | None = None
) -> AsyncIterator[Opened]:
    """Gather the other ranks of a server, and let them go at the end.

    :param on_lost: told why, at once, when one of them is gone before that.
    :raises StartupError: when they do not come, or cannot reach each other.
    """
    members = await _gather(spec, secret)
    steps = {seat.rank: stream for seat, stream in members.items() if seat.channel == "steps"}
    kv = {seat.rank: stream for seat, stream in members.items() if seat.channel == "kv"}
    gang = Gang(spec.name, steps)
    if on_lost is not None:
        gang.ended.add_done_callback(lambda ended: on_lost(ended.result()))
    gang.watch()
    opened = Opened(gang, kv)
    try:
        opened.ranks = way = await in_daemon(partial(_open_way, spec, steps))
        gang.ended.add_done_callback(lambda _: way.end())
        await gang.unless_ended(in_daemon(way.connect))
        yield opened
    finally:
        await opened.close()


async def _gather(spec: EngineSpec, secret: bytes) -> Members:
    gathering = Gathering(spec, secret)
    try:
        return await in_daemon(gathering.gather)
    finally:
        gathering.close()


def _open_way(spec: EngineSpec, streams: Mapping[int, Frames[FromFollower]]) -> Way:
    way, where = open_way(spec)
    for stream in streams.values():
        with contextlib.suppress(StreamEndedError):  # seen by whoever watches the gang
            stream.send(encode(where))
    return way
