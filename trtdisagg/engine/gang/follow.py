"""The life of a rank that follows: join, load, compute what rank 0 says, end with it. No HTTP, no scheduler, no text.

    event loop      Loading ... Beat Beat Beat -> agent     Loaded, Ticks -> rank 0     KV calls <-> rank 0
    engine thread                                           Compute, Compute ... Goodbye <- rank 0

Only rank 0 knows when the server may end. So the first SIGTERM changes nothing, as rank 0 has got one too and drains; a
second one ends the process at once, and so does the end of rank 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import NoReturn

from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.movers.remote import serve_mover
from trtdisagg.engine.beats import Beats
from trtdisagg.engine.gang.frames import Frames, StreamEndedError, encode
from trtdisagg.engine.gang.meeting import JOIN_TIMEOUT_S, Place, join
from trtdisagg.engine.gang.messages import Compute, Ending, FromLeader, Goodbye, Loaded, SharedMemory, Store, Ticks
from trtdisagg.engine.gang.sockets import open_stream
from trtdisagg.engine.gang.ways import Way, reach_way
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.progress import Progress, Pulse
from trtdisagg.engine.shard import open_mover, open_shard
from trtdisagg.engine.threads import in_daemon
from trtdisagg.engine.watch import beside, turning
from trtdisagg.errors import StartupError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.reports import Loading, Reporter
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at

log = logging.getLogger(__name__)

TICKS_S = 0.25
LAST_WORDS_S = 2.0
"""A step that fails because a rank is gone fails everywhere: rank 0, who knows which, ends us sooner than this."""


class Follower:
    """One rank of a server, but the first.

    :param end: ends the process at once with this exit code: what other threads compute in is not taken apart.
    """

    def __init__(self, spec: EngineSpec, secret: bytes, reporter: Reporter, end: Callable[[int], NoReturn]) -> None:
        self._spec = spec
        self._secret = secret
        self._reporter = reporter
        self._end = end
        self._progress = Progress()
        self._turns = Progress()
        self._is_told = False

    async def run(self) -> int:
        """Follow until rank 0 says goodbye.

        :return: the exit code.
        :raises TrtdisaggError: when it cannot start.
        """
        gc.disable()  # until it is loaded: nearly all that is made now stays
        with Beats(self._reporter, Stats, [lambda: Pulse(self._turns.num_ticks, is_working=False)]):
            async with turning(self._turns):
                self._stage("joining")
                place = await in_daemon(partial(join, self._spec, self._secret))
                self._take_signals()
                with contextlib.closing(place.steps), contextlib.closing(place.kv), _last_words(place.steps):
                    await self._follow(place)
        log.info("rank %d of %s has ended with it", self._spec.rank, self._spec.name)
        return 0

    async def _follow(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(place.kv.sock, self._rank_0_is_gone)  # nothing comes there before we have said Loaded
        ranks = await in_daemon(partial(self._connect, place.steps))
        files = files_at(self._spec.model_path, served_name=self._spec.model)
        dims = await in_daemon(partial(read_dimensions, files))
        async with AsyncExitStack() as stack:
            shard = await stack.enter_async_context(open_shard(self._spec, dims, ranks, self._progress, self._stage))
            mover = None
            if self._spec.transfer.transports:
                self._stage("transports")
                mover = await stack.enter_async_context(open_mover(self._spec, self._secret, shard))
            loop.remove_reader(place.kv.sock)
            await stack.enter_async_context(beside(self._serve_kv(place.kv, mover)))
            await stack.enter_async_context(telling(place.steps, self._progress))
            gc.freeze()
            gc.enable()
            place.steps.sock.settimeout(None)  # a server may have nothing to do for days
            place.steps.send(encode(Loaded()))
            await self._compute(place.steps, shard.runner)

    async def _serve_kv(self, kv: Frames[FromLeader], mover: RankMover | None) -> None:
        """Rank 0 keeps this connection as long as it lives, also when it has nothing to ask."""
        reader, writer = await open_stream(kv.sock)
        if mover is not None:
            await serve_mover(reader, writer, mover)
        else:
            with contextlib.suppress(OSError):  # its host has vanished
                await reader.read()
        self._rank_0_is_gone()

    async def _compute(self, steps: Frames[FromLeader], runner: Runner) -> None:
        try:
            await in_daemon(partial(obey, steps, runner, self._progress), name="engine")
        except StreamEndedError:
            self._rank_0_is_gone()
        except Exception as e:
            await asyncio.sleep(LAST_WORDS_S)
            raise UnavailableError(f"a step failed there: {type(e).__name__}: {e}") from e

    def _connect(self, steps: Frames[FromLeader]) -> Way:
        spec = self._spec
        steps.sock.settimeout(JOIN_TIMEOUT_S)  # rank 0 waits for the others to come
        try:
            where = steps.receive()
        except StreamEndedError as e:
            raise StartupError(f"rank 0 of {spec.name} went no further: {e}") from e
        if not isinstance(where, SharedMemory | Store):
            raise StartupError(f"rank 0 of {spec.name} sent {type(where).__name__} before the way of tensors")
        way = reach_way(spec, where)
        way.connect()
        return way

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)

    def _asked_to_end(self, number: int) -> None:
        if self._is_told:
            self._end(128 + number)
        self._is_told = True
        log.info("rank %d of %s ends when rank 0 has", self._spec.rank, self._spec.name)

    def _rank_0_is_gone(self) -> NoReturn:
        log.info("rank 0 of %s has ended", self._spec.name)
        self._end(1)

    def _stage(self, name: str) -> None:
        log.info("loading: %s", name)
        self._reporter.send(Loading(stage=name))


@contextlib.contextmanager
def _last_words(steps: Frames[FromLeader]) -> Iterator[None]:
    """Tell rank 0 why we cannot go on."""
    try:
        yield
    except TrtdisaggError as e:
        with contextlib.suppress(StreamEndedError):
            steps.send(encode(Ending(e.message)))
        raise


def obey(steps: Frames[FromLeader], runner: Runner, progress: Progress) -> None:
    """Compute what rank 0 says until it says goodbye.

    :raises StreamEndedError: when it has ended without that.
    """
    while not isinstance(message := steps.receive(), Goodbye):
        if not isinstance(message, Compute):
            raise StreamEndedError(f"{type(message).__name__} came in place of a step")
        runner.run(message.step)
        progress.tick()


@contextlib.asynccontextmanager
async def telling(steps: Frames[FromLeader], progress: Progress) -> AsyncIterator[None]:
    """Tell rank 0, until the end of the block, how far we are: it must not be taken for stuck while it waits for us."""

    async def tell() -> None:
        num_told = 0
        while True:
            await asyncio.sleep(TICKS_S)
            if progress.num_ticks != num_told:
                num_told = progress.num_ticks
                with contextlib.suppress(OSError):  # full: the next one says more; lost: others see that
                    steps.sock.send(encode(Ticks(num_told)), socket.MSG_DONTWAIT)

    async with beside(tell()):
        yield
