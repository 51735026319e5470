"""A context server as the generation side sees it: a stream for leases, and a link to its pool.

One Peer per incarnation. It stays connected until it is lost or given up: then the stream ends, which frees over there
at once whatever we had claimed, and all that waits here gets the reason as a HandoverError.

It knows requests by their ids and copies by their runs; what belongs together is a Claim's business (`claims`).
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Executor

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.streams import SILENT_BEATS, PeerLostError, PeerStream
from trtdisagg.cache.transports import Link, check_bounds
from trtdisagg.cache.waiting import in_thread
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.peers import Finish, Finished, FromContext, Ping, Pong, Release, Renew, Welcome


class Peer:
    """A connected context server. Whoever makes it calls `run`, then `close`.

    :param threads: where copies run.
    :param keepalive_s: between two signs of life.
    """

    def __init__(
        self, stream: PeerStream[FromContext], welcome: Welcome, link: Link, threads: Executor, keepalive_s: float
    ) -> None:
        self.name = welcome.server
        self.shape = welcome.shape
        self._pool_bytes = welcome.memory[0].region.pool_bytes
        self._stream = stream
        self._link = link
        self._threads = threads
        self._silence_s = keepalive_s * SILENT_BEATS
        self._beat_s = min(keepalive_s, welcome.lease_ms / 1000 / 3)
        self._claimed: set[int] = set()
        self._finishing: dict[int, asyncio.Future[bool]] = {}
        self._copies: set[asyncio.Future[None]] = set()
        self.lost: str | None = None
        """Why it can be used no more."""

    @property
    def num_claims(self) -> int:
        return len(self._claimed)

    async def run(self) -> None:
        """Keep the connection and the leases alive until the peer is lost."""
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._beat())
            try:
                while True:
                    self._handle(await self._stream.receive(self._silence_s))
            except PeerLostError as e:
                self._lose(e.message)
            beating.cancel()

    async def close(self) -> None:
        """End the connection, then wait until nothing is copied any more."""
        self._lose("the server ends")
        self._link.abort()
        await self._stream.close()
        if self._copies:
            await asyncio.wait(self._copies)
        await in_thread(self._threads, self._link.close)

    def give_up(self, reason: str) -> HandoverError:
        """End the connection, because what a transfer met will meet the others too.

        :return: what to raise.
        """
        self._lose(reason)
        self._stream.abort()
        return HandoverError(f"{self.name}: {reason}")

    def claim(self, request_id: int) -> None:
        """Keep the lease of a request alive from now on.

        :raises HandoverError: when the peer is lost, or the request is claimed already.
        """
        self._check()
        if request_id in self._claimed or request_id in self._finishing:
            raise HandoverError(f"hold {request_id} of {self.name} is claimed already")
        self._claimed.add(request_id)
        self._stream.send(Renew(request_ids=[request_id]))

    def copy(self, runs: Runs) -> asyncio.Future[None]:
        """Copy from the peer's pool to ours.

        :return: done when nothing is written any more; to be waited for, never cancelled.
        :raises HandoverError: when the peer is lost.
        """
        self._check()
        check_bounds(runs, local_bytes=sys.maxsize, remote_bytes=self._pool_bytes)
        copy = asyncio.get_running_loop().run_in_executor(self._threads, self._link.read, runs)
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)
        copy.add_done_callback(asyncio.Future.exception)  # seen, also when nobody waits any more
        return copy

    async def finish(self, request_id: int) -> bool:
        """Give a claimed request's blocks back after having read them.

        :return: whether they were held until now, so that what was read is right.
        :raises HandoverError: when the peer is lost.
        """
        self._check()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._finishing[request_id] = answer
        self._claimed.discard(request_id)
        self._stream.send(Finish(request_id=request_id))
        try:
            return await answer
        finally:
            del self._finishing[request_id]

    def release(self, request_id: int) -> None:
        """Give a claimed request's blocks back unread."""
        if request_id in self._claimed:
            self._claimed.remove(request_id)
            self._stream.send(Release(request_id=request_id))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            self._stream.send(Ping())
            if self._claimed:
                self._stream.send(Renew(request_ids=list(self._claimed)))

    def _handle(self, message: FromContext) -> None:
        match message:
            case Finished(request_id=request_id, valid=valid):
                if (answer := self._finishing.get(request_id)) and not answer.done():
                    answer.set_result(valid)
            case Pong():
                pass
            case _:
                raise PeerLostError(f"the peer sent {type(message).__name__}, which has no place here")

    def _check(self) -> None:
        if self.lost is not None:
            raise HandoverError(self.lost)

    def _lose(self, reason: str) -> None:
        """Remember why the peer can be used no more, and tell all who wait."""
        if self.lost is not None:
            return
        self.lost = f"{self.name}: {reason}"
        self._claimed.clear()
        for answer in self._finishing.values():
            if not answer.done():
                answer.set_exception(HandoverError(self.lost))
