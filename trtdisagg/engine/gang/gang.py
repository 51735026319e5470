"""The other ranks of a server, as rank 0 sees them: what they say, whether they are there, and how they end.

event loop      Loaded, Ticks, Ending, end of stream <- each of them
engine thread   Compute(step) -> each of them
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from trtdisagg.engine.gang.frames import Frames, StreamEndedError, StreamLostError, encode
from trtdisagg.engine.gang.messages import Compute, Ending, FromFollower, Goodbye, Loaded, Ticks
from trtdisagg.engine.gang.sockets import host_of
from trtdisagg.engine.interfaces import EngineBrokenError
from trtdisagg.engine.step import Step
from trtdisagg.errors import StartupError

log = logging.getLogger(__name__)
T = TypeVar("T")

SEND_TIMEOUT_S = 600.0
"""For a step to be taken by a rank that is far behind, as one whose long prompt nobody waits for: longer than any step.
Who is frozen is found by its silence, and who is gone by the end of its connection."""
LAST_WORDS_S = 1.0
"""When a step fails because a rank is gone, its end is known so soon: then that is the reason to be told."""
GOODBYE_TIMEOUT_S = 10.0
"""For a rank to give back what it has."""


class Gang:
    """The other ranks of a server, seen from rank 0. In one event loop, but for what says otherwise.

    :param streams: the connections for steps, by rank.
    """

    def __init__(self, server: str, streams: Mapping[int, Frames[FromFollower]]) -> None:
        self._server = server
        self._streams = streams
        self._hosts = {rank: host_of(stream.sock) for rank, stream in streams.items()}
        self._loop = asyncio.get_running_loop()
        self._here = set(streams)
        self._loading = set(streams)
        self._all_loaded = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._is_closing = False
        self._num_ticks = dict.fromkeys(streams, 0)
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Done when the gang can compute no more; why."""
        self._has_ended = threading.Event()

    def num_ticks(self) -> int:
        """How far all others together have come; from any thread."""
        return sum(self._num_ticks.values())

    def watch(self) -> None:
        """Listen to what they say, from now on until `close`."""
        for rank, stream in self._streams.items():
            stream.sock.settimeout(SEND_TIMEOUT_S)
            self._loop.add_reader(stream.sock, self._listen, rank, stream)

    async def loaded(self) -> None:
        """Wait until all of them can compute.

        :raises StartupError: when one of them never will.
        """
        await self.unless_ended(self._all_loaded.wait())

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something that comes to nothing once a rank is gone.

        :raises StartupError: when that is so.
        """
        task = asyncio.ensure_future(work)
        try:
            waited_for: list[asyncio.Future[Any]] = [task, self.ended]
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done():
                raise StartupError(self.ended.result())
            return await task
        finally:
            task.cancel()

    def compute(self, step: Step) -> None:
        """Have all of them compute a step; from the engine's thread.

        :raises EngineBrokenError: when one of them is gone.
        """
        frame = encode(Compute(step))
        try:
            for stream in self._streams.values():
                stream.send(frame)
        except StreamEndedError as e:
            raise self.broken_by(e) from e

    def broken_by(self, error: Exception) -> EngineBrokenError:
        """A step was not computed to its end: the ranks no longer agree on where they are. From the engine's thread.

        :return: to be raised; its words are why.
        """
        if not self._has_ended.wait(LAST_WORDS_S):
            reason = f"a step of {self._server} failed in rank 0: {type(error).__name__}: {error}"
            self._loop.call_soon_threadsafe(self._end, reason)
            return EngineBrokenError(reason)
        return EngineBrokenError(self.ended.result())

    async def close(self) -> None:
        """Let all of them go, and wait until they have gone."""
        self._is_closing = True
        if not self.ended.done():
            self._say_goodbye()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                    await self._all_gone.wait()
        for rank in sorted(self._here):
            self._forget(rank)  # it ends when it sees that

    def lose(self, rank: int, why: str) -> None:
        """Somebody has found that a rank is gone, or hangs."""
        host = self._hosts[rank]
        self._end(f"rank {rank} of {self._server}{f' on {host}' if host else ''} {why}")

    def _say_goodbye(self) -> None:
        for rank in self._here:
            stream = self._streams[rank]
            stream.sock.settimeout(0)  # who has not taken the steps before it learns of the end by that of the stream
            with contextlib.suppress(StreamEndedError):  # or it has gone by itself
                stream.send(encode(Goodbye()))

    def _listen(self, rank: int, stream: Frames[FromFollower]) -> None:
        try:
            for message in stream.received():
                self._hear(rank, message)
        except StreamEndedError as e:
            log.debug("rank %d: %s", rank, e)
            self._forget(rank)
            self.lose(rank, f"cannot be reached any more: {e}" if isinstance(e, StreamLostError) else "has ended")

    def _hear(self, rank: int, message: FromFollower) -> None:
        match message:
            case Loaded():
                self._loading.discard(rank)
                if not self._loading:
                    self._all_loaded.set()
            case Ticks(num_ticks=num_ticks):
                self._num_ticks[rank] = num_ticks
            case Ending(reason=reason):
                self.lose(rank, f"has ended: {reason}")
            case _:
                raise StreamEndedError(f"it sent {type(message).__name__}")

    def _forget(self, rank: int) -> None:
        if rank not in self._here:
            return
        self._here.remove(rank)
        self._loop.remove_reader(self._streams[rank].sock)
        self._streams[rank].close()
        if not self._here:
            self._all_gone.set()

    def _end(self, reason: str) -> None:
        if not self._is_closing and not self.ended.done():
            self.ended.set_result(reason)
            self._has_ended.set()
