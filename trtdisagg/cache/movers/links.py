"""The way between one rank of ours and one rank of a peer: connected, measured, and for each fetch the fastest.

It knows one pair of ranks and runs of bytes; which runs make up a request is the mover's business (`rank`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.choice import Experience, Figures, Way, choose, compute
from trtdisagg.cache.movers.help import Help
from trtdisagg.cache.movers.means import Means
from trtdisagg.cache.movers.measuring import LinkTest
from trtdisagg.cache.movers.staged import Staged
from trtdisagg.cache.transports import Link, Transport, name_of
from trtdisagg.cache.waiting import in_thread, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import Memory, RankMemory, Region

log = logging.getLogger(__name__)

T = TypeVar("T")

TEST_TIMEOUT_S = 10.0
_LARGE_BYTES, _LARGE_RUNS = 64 << 20, 64
"""A fetch by which a link is described: that of a long prompt between servers of the same layout."""
_ABORTED = "the link was aborted"


class Span(NamedTuple):
    """When something happened, in monotonic seconds."""

    started: float
    ended: float


class RankLink:
    """A connected rank of a peer. Whoever opens it calls `close`."""

    def __init__(self, means: Means, transport: Transport, link: Link, help_: Help | None) -> None:
        self.transport = name_of(transport.memory_type)
        self.figures: Figures
        self.others: list[str] = []
        """Why it is not another transport that was preferred."""
        self._means = means
        self._link = link
        self._help = help_
        self._staged: Staged | None = None
        if help_ is not None and means.slots is not None:
            self._staged = Staged(means, means.slots, help_, self._read)
        self._reads: set[asyncio.Future[None]] = set()
        self._moves: set[asyncio.Task[Any]] = set()
        self._experience = Experience()
        self._is_aborted = False

    @classmethod
    async def open(cls, means: Means, memory: RankMemory) -> Self:
        """Connect by the first of our transports that the peer has too and that connects, and measure it.

        :raises HandoverError: when none does, with the reasons.
        """
        reasons: list[str] = []
        for transport in means.transports:
            name = name_of(transport.memory_type)
            theirs = next((m for m in memory.memory if isinstance(m, transport.memory_type)), None)
            if theirs is None:
                reasons.append(f"not {name}: the peer does not have it")
                continue
            try:
                opened = await cls._try(means, transport, theirs, memory)
            except HandoverError as e:
                reasons.append(f"not {name}: {e.message}")
                continue
            opened.others = reasons
            return opened
        raise HandoverError(f"no transport connects: {'; '.join(reasons)}")

    @classmethod
    async def _try(cls, means: Means, transport: Transport, theirs: Memory, memory: RankMemory) -> Self:
        # It helps from here on to connect, too, where the transport wants help for that.
        help_ = await _asked_for_help(means, memory) if transport.can_write else None
        try:
            opened = cls(
                means,
                transport,
                await in_thread(means.threads, transport.connect, theirs, undo=lambda link: link.close()),
                help_,
            )
        except BaseException:
            if help_ is not None:
                help_.close()
            raise
        try:
            await opened._measure(theirs.region)
        except BaseException:
            opened.abort()
            await wait_out(asyncio.ensure_future(opened.close()))
            raise
        return opened

    def times(self, num_bytes: int, num_runs: int) -> dict[Way, float]:
        """Seconds that such a fetch should take, by each way there is now."""
        return compute(self.figures, num_bytes, num_runs, self._staged.piece_bytes if self._staged else 0)

    @property
    def usual_way(self) -> Way:
        return choose(self.times(_LARGE_BYTES, _LARGE_RUNS), self._experience)

    @property
    def gb_s(self) -> float:
        """Of the test block, the way that large fetches go."""
        rate = self.figures.write_bytes_s if self.usual_way == "push" else None
        return (rate or self.figures.read_bytes_s) / 1e9

    def __str__(self) -> str:
        f = self.figures
        written = f", written at {f.write_bytes_s / 1e9:.1f}" if f.write_bytes_s else ""
        return (
            f"{self.transport}, {self.usual_way}: read at {f.read_bytes_s / 1e9:.1f} GB/s{written}, "
            f"latency {f.latency_s * 1e6:.0f} us, each run {f.descriptor_s * 1e6:.1f} us"
            + "".join(f"; {reason}" for reason in self.others)
        )

    async def fetch(self, runs: Runs, timeout_s: float) -> Span:
        """Copy from the peer's pool to ours. When it returns or raises, nothing is written there any more.

        :param timeout_s: from when its turn has come.
        :raises HandoverError: when it could not be done in time or at all.
        """
        async with self._means.turns:
            times = self.times(int(runs[:, 2].sum()), len(runs))
            way = choose(times, self._experience)
            started = time.monotonic()
            abortion = asyncio.get_running_loop().call_later(timeout_s, self.abort)
            try:
                if way == "pull":
                    await self._read(runs)
                else:
                    assert self._staged is not None
                    await self._abortable(self._staged.move(runs, way))
            except HandoverError as e:
                if time.monotonic() - started >= timeout_s:
                    raise HandoverError(f"no transfer within {timeout_s:g} s") from e
                raise
            finally:
                abortion.cancel()
            ended = time.monotonic()
            self._experience.note(way, times[way], ended - started)
            return Span(started, ended)

    def abort(self) -> None:
        """Make what runs end soon, and begin no more. Returns at once."""
        self._is_aborted = True
        self._link.abort()
        if self._help is not None:
            self._help.abort()
        for moving in self._moves:
            moving.cancel()

    async def close(self) -> None:
        """Wait until nothing is written into our blocks any more, and give everything back."""
        if self._help is not None:
            self._help.close()
        await self._close_link()

    async def _close_link(self) -> None:
        if self._reads:
            await asyncio.wait(self._reads)
        await in_thread(self._means.threads, self._link.close)

    async def _abortable(self, work: Coroutine[Any, Any, T]) -> T:
        """
        :raises HandoverError: when it was cut short.
        """
        if self._is_aborted:
            work.close()
            raise HandoverError(_ABORTED)
        moving = asyncio.create_task(work)
        self._moves.add(moving)
        try:
            await asyncio.wait([moving])
        finally:
            moving.cancel()
            await wait_out(moving)
            self._moves.remove(moving)
        if moving.cancelled():
            raise HandoverError(_ABORTED)
        return moving.result()

    async def _read(self, runs: Runs) -> None:
        if self._is_aborted:  # and perhaps closed
            raise HandoverError(_ABORTED)
        reading = asyncio.get_running_loop().run_in_executor(self._means.threads, self._link.read, runs)
        self._reads.add(reading)
        try:
            await wait_out(reading)
        finally:
            self._reads.discard(reading)
            error = reading.exception()
        if error is not None:
            raise error

    async def _measure(self, theirs: Region) -> None:
        test = LinkTest(self._means.pool, theirs, self._read, self._means.threads)
        async with self._means.one_test:
            abortion = asyncio.get_running_loop().call_later(TEST_TIMEOUT_S, self.abort)
            try:
                self.figures = await test.of_reads()
                if self._staged is not None and self._staged.piece_bytes:
                    await self._measure_staged(test, self._staged)
            finally:
                abortion.cancel()
        if self._is_aborted:
            raise HandoverError(_ABORTED)
        if self._help is not None:
            self._help.measured()

    async def _measure_staged(self, test: LinkTest, staged: Staged) -> None:
        request_s = await self._abortable(test.of_requests(staged))
        self.figures = msgspec.structs.replace(self.figures, request_s=request_s)
        try:
            write_bytes_s = await self._abortable(test.of_pushes(staged, self.figures, request_s))
        except HandoverError as e:
            if self._is_aborted:
                raise
            log.info("the peer cannot push by %s: %s", self.transport, e.message)
            return
        self.figures = msgspec.structs.replace(self.figures, write_bytes_s=write_bytes_s)


async def _asked_for_help(means: Means, memory: RankMemory) -> Help | None:
    """A connection to the rank's helper; without one, everything is pulled."""
    if not memory.port or means.zero_copy or means.slots is None:
        return None
    try:
        help_ = await Help.open(memory, means.hello, means.secret)
    except HandoverError as e:
        log.warning("KV cannot be packed on its way: %s", e.message)
        return None
    means.keep_running(help_.run())
    return help_
