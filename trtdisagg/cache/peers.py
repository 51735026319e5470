"""A context server as rank 0 of the generation side sees it: a stream for leases, and movers that have met its ranks.

One Peer per connection, of one incarnation. It stays connected until it is lost or given up: then the stream ends,
which frees over there at once whatever we had claimed, what moves from there is cut short, and all that waits here gets
the reason as a HandoverError.

It knows requests by their ids and moves by their parts; what belongs together is a Claim's business (`claims`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from trtdisagg.cache.announcements import Hearing
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.streams import SILENT_BEATS, PeerLostError, PeerStream
from trtdisagg.cache.waiting import all_of, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.peers import (
    Check,
    Checked,
    Computed,
    Finish,
    Finished,
    FromContext,
    Met,
    Moved,
    Part,
    Ping,
    Pong,
    Release,
    Renew,
    Retracted,
    Welcome,
)


class Peer:
    """A connected context server. Whoever makes it calls `run`, then `close`.

    :param movers: of our ranks; all have met this peer.
    :param met: how, by rank.
    :param hearing: told what it announces.
    :param keepalive_s: between two signs of life.
    """

    def __init__(
        self,
        stream: PeerStream[FromContext],
        welcome: Welcome,
        movers: Sequence[Mover],
        met: Sequence[Met],
        *,
        hearing: Hearing,
        keepalive_s: float,
    ) -> None:
        self.name = welcome.me.server
        self.incarnation = welcome.me.incarnation
        self.layout = welcome.me.layout
        self.met = met
        self._stream = stream
        self._movers = movers
        self._silence_s = keepalive_s * SILENT_BEATS
        self._beat_s = min(keepalive_s, welcome.lease_ms / 1000 / 3)
        self._claimed: set[int] = set()
        self._hearing = hearing
        self._finishing: dict[int, asyncio.Future[bool]] = {}
        self._checking: dict[int, asyncio.Future[bool]] = {}
        self._moving: set[asyncio.Future[list[Moved]]] = set()
        self.lost: str | None = None
        """Why it can be used no more."""

    @property
    def num_claims(self) -> int:
        return len(self._claimed)

    @property
    def num_moving(self) -> int:
        """Requests whose KV travels now."""
        return len(self._moving)

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
        """End the connection, and have the movers forget the peer; then nothing moves any more."""
        self._lose("the server ends")
        try:
            await self._stream.close()
        finally:
            await forgotten(self._movers, self.incarnation)
            if self._moving:
                await asyncio.wait(self._moving)

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

    async def move(self, parts: Mapping[int, Part]) -> list[Moved]:
        """Have our ranks fetch their parts of a request, at once. When it returns or raises, nothing is written into
        their blocks any more.

        :raises HandoverError: when one of them could not, or the peer is lost.
        """
        self._check()
        moving = asyncio.ensure_future(all_of([self._movers[rank].fetch(part) for rank, part in parts.items()]))
        self._moving.add(moving)
        try:
            await asyncio.wait([moving])
        finally:
            moving.cancel()
            await wait_out(moving)
            self._moving.discard(moving)
            error = None if moving.cancelled() else moving.exception()  # seen, also when nobody waits any more
        if moving.cancelled():
            raise HandoverError(self.lost or f"{self.name}: the transfer was cut short")
        if error is not None:
            raise error
        return moving.result()

    async def finish(self, request_id: int) -> bool:
        """Give a claimed request's blocks back after having read them.

        :return: whether they were held until now, so that what was read is right.
        :raises HandoverError: when the peer is lost.
        """
        self._check()
        self._claimed.discard(request_id)
        return await self._ask(Finish(request_id=request_id), self._finishing, request_id)

    async def still_holds(self, number: int) -> bool:
        """Whether what was announced was not retracted until now, so that what was read of it is right.

        :raises HandoverError: when the peer is lost.
        """
        self._check()
        return await self._ask(Check(number=number), self._checking, number)

    async def _ask(self, question: Finish | Check, waiting: dict[int, asyncio.Future[bool]], number: int) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting[number] = answer
        self._stream.send(question)
        try:
            return await answer
        finally:
            del waiting[number]

    def release(self, request_id: int) -> None:
        """Give a claimed request's blocks back unread."""
        if request_id in self._claimed:
            self._claimed.remove(request_id)
            self._stream.send(Release(request_id=request_id))

    def release_unclaimed(self, request_id: int) -> None:
        """Give back what nobody here has claimed, nor will.

        :raises HandoverError: when the peer is lost.
        """
        self._check()
        if request_id not in self._claimed and request_id not in self._finishing:
            self._stream.send(Release(request_id=request_id))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            self._stream.send(Ping())
            if self._claimed:
                self._stream.send(Renew(request_ids=list(self._claimed)))

    def _handle(self, message: FromContext) -> None:
        match message:
            case Finished(request_id=number, valid=valid):
                _answer(self._finishing.get(number), valid)
            case Checked(number=number, valid=valid):
                _answer(self._checking.get(number), valid)
            case Computed():
                self._hearing.computed(self.name, self.incarnation, message)
            case Retracted(number=number):
                self._hearing.retracted((self.incarnation, number))
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
        self._hearing.lost(self.incarnation)
        for answer in (*self._finishing.values(), *self._checking.values()):
            if not answer.done():
                answer.set_exception(HandoverError(self.lost))
        for moving in self._moving:
            moving.cancel()


def _answer(waiting: asyncio.Future[bool] | None, answer: bool) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(answer)


async def forgotten(movers: Sequence[Mover], incarnation: str) -> None:
    """Have movers forget a peer, and wait until all have; one that is lost itself has nothing to forget."""
    await asyncio.gather(*(mover.forget(incarnation) for mover in movers), return_exceptions=True)
