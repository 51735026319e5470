"""The context side: blocks held for generation servers, and the listener where those come for them.

    hold (engine thread) -> lease -> Renew ... Finish | Release | the lease ends | the peer is lost -> on_released
                       withdraw (engine thread) ---------------------------------------------------------^

It tells peers where our pools are, and knows nothing of the reads themselves: those are one-sided. What makes them safe
is that `Finished` says whether the blocks were still held when they had been read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

import msgspec

from trtdisagg.cache.announcements import Telling
from trtdisagg.cache.greeting import RefusedError, greet
from trtdisagg.cache.holds import Holds, Offer
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.streams import SILENT_BEATS, PeerLostError, PeerStream
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.peers import (
    Check,
    Checked,
    Finish,
    Finished,
    FromGeneration,
    HaveMet,
    PeerRanks,
    Ping,
    Pong,
    Release,
    Renew,
    Welcome,
)

log = logging.getLogger(__name__)

_DECODER = msgspec.msgpack.Decoder(FromGeneration)


class Offers:
    """What we hold for others. `open`, `start`, `stop`.

    :param me: what we tell a peer that is let in.
    :param movers: of our ranks; told whether anything is held.
    :param tasks: owns a task per connection, from `start` until all have ended after `stop`.
    """

    def __init__(
        self,
        me: Welcome,
        movers: Sequence[Mover],
        tasks: asyncio.TaskGroup,
        *,
        secret: bytes,
        keepalive_s: float,
    ) -> None:
        self.holds = Holds(me.lease_ms / 1000)
        self._me = me
        self._movers = movers
        self._tasks = tasks
        self._secret = secret
        self._silence_s = keepalive_s * SILENT_BEATS
        self._own_tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[PeerStream[FromGeneration], PeerRanks] = {}
        """Those that were let in, and who they are."""
        self.telling = Telling(self._streams, me.me.layout.tokens_per_block, self._post, self._tell_watch)
        self._meeting: set[PeerStream[FromGeneration]] = set()
        """Those whose ranks are trying links to ours."""
        self._gone: set[str] = set()
        """Incarnations that have ended, and are not let in any more."""
        self._changed = asyncio.Event()
        self._is_stopped = False

    async def open(self, host: str, port: int) -> None:
        """Listen.

        :raises StartupError: when the address is not to be had.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._listener = await asyncio.start_server(self._accept, host, port)
        except OSError as e:
            raise StartupError(f"{self._me.me.server} cannot listen for KV peers on {host}:{port}: {e}") from e
        self.host = host
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def start(self) -> None:
        """Serve; from here on there are tasks."""
        self._start(self._watch())

    def hold(self, offer: Offer) -> Ticket:
        """Hold blocks under a lease from now on. From any thread.

        :raises HandoverError: when we end.
        """
        hold_id = self.holds.add(
            offer.request_id, len(offer.blocks), offer.on_released, self._incarnation(offer.reader)
        )
        self._tell_watch()
        return Ticket(
            server=self._me.me.server,
            incarnation=self._me.me.incarnation,
            host=self.host,
            port=self.port,
            request_id=hold_id,
            num_tokens=offer.num_tokens,
            blocks=list(offer.blocks),
            lease_ms=self._me.lease_ms,
            dp_rank=offer.dp_rank,
        )

    def withdraw(self, ticket: Ticket) -> None:
        """Release what a ticket of ours names, if it is still held. From any thread."""
        if self.holds.end(ticket.request_id):
            self._tell_watch()

    def gone(self, incarnation: str) -> None:
        """A server has ended: what it had claimed, or was to claim, is free."""
        self._gone.add(incarnation)
        released = self.holds.end_meant_for(incarnation)
        for stream, peer in list(self._streams.items()):
            if peer.incarnation == incarnation:
                released += self.holds.end_of(stream)
                stream.abort()
        if released:
            log.warning("%s has ended; released: %s", incarnation, released)
        self._changed.set()

    def stop(self) -> None:
        """Hold no more, release what is held, and ask our tasks to end."""
        self._is_stopped = True
        self._listener.close()
        self.holds.close()
        for task in self._own_tasks:
            task.cancel()

    def _incarnation(self, server: str | None) -> str | None:
        """Of a generation server that is connected now."""
        if server is None:
            return None
        return next((peer.incarnation for peer in list(self._streams.values()) if peer.server == server), None)

    def _tell_watch(self) -> None:
        self._post(self._changed.set)

    def _post(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: then so is `holds`, and the callbacks were called
            self._loop.call_soon_threadsafe(call)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(work)
        self._own_tasks.add(task)
        task.add_done_callback(self._own_tasks.discard)
        return task

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_stopped:
            writer.transport.abort()
        else:
            stream = PeerStream(reader, writer, _DECODER)
            task = self._start(self._serve(stream))
            task.add_done_callback(lambda _: stream.abort())  # also of one that never began

    async def _serve(self, stream: PeerStream[FromGeneration]) -> None:
        """The life of one connection."""
        name = "a peer"
        try:
            peer = (await greet(stream, self._me, self._secret)).me
            name = peer.server
            if peer.incarnation in self._gone:
                raise PeerLostError(f"{peer.incarnation} has ended, it was said")
            self._streams[stream] = peer
            self._meeting.add(stream)
            self._changed.set()
            while True:
                self._handle(stream, await stream.receive(self._silence_s))
        except RefusedError as e:
            log.warning("%s", e.message)
        except HandoverError as e:
            lost = self.holds.end_of(stream)
            log.log(
                logging.WARNING if lost else logging.INFO, "%s: %s; released: %s", name, e.message, lost or "nothing"
            )
        finally:
            self._streams.pop(stream, None)
            self._meeting.discard(stream)
            self.holds.end_of(stream)
            self.telling.lost(stream)
            self._changed.set()
            await wait_out(asyncio.ensure_future(stream.close()))

    def _handle(self, stream: PeerStream[FromGeneration], message: FromGeneration) -> None:
        match message:
            case HaveMet():
                self._meeting.discard(stream)
            case Renew(request_ids=hold_ids):
                self.holds.renew(hold_ids, holder=stream)
            case Finish(request_id=hold_id):
                stream.send(Finished(request_id=hold_id, valid=self.holds.end(hold_id, is_read=True)))
            case Release(request_id=hold_id):
                self.holds.end(hold_id)
            case Check(number=number):
                stream.send(Checked(number=number, valid=number in self.telling))
            case Ping():
                stream.send(Pong())
            case _:
                raise PeerLostError(f"it sent {type(message).__name__}, which has no place here")
        self._changed.set()

    async def _watch(self) -> None:
        """End leases when they are over, and tell the movers when there is something to read, and when not."""
        is_serving = False
        while True:
            self._changed.clear()
            for request_id in self.holds.end_expired():
                log.warning("the lease of request %d ended: its KV was not fetched", request_id)
            if is_serving != bool(self.holds or self.telling or self._meeting):
                is_serving = not is_serving
                for mover in self._movers:
                    mover.set_serving(is_serving)
            due = self.holds.next_deadline()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - time.monotonic()):
                    await self._changed.wait()
