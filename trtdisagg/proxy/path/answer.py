"""The answer on its way to the client: what a generation server says, whole or as a stream, and what is kept of that.

    pieces of a server -> whole events, up to an error -> remembered -> the client

Only a stream of one answer from servers of ours can go on elsewhere, and only that is looked at and remembered
(said.py). The bytes of any other go to the client as they come. What follows from a leg that failed is the relay's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.deadlines import Deadline
from trtdisagg.proxy.http.upstream import ChunkSink, Connection
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.path.client_stream import ClientStream
from trtdisagg.proxy.path.failures import LegFailedError, from_event
from trtdisagg.proxy.path.legs import Leg
from trtdisagg.proxy.path.said import PART_END, Said, WholeEvents
from trtdisagg.proxy.records.record import Record


class Answer:
    """Of one request, from however many servers.

    :param deadline: for the first token; when that is there, for all of it.
    :param last_due: when that is, on the loop's clock; infinite: there is none.
    """

    def __init__(self, means: Means, client: ClientStream, record: Record, deadline: Deadline, last_due: float) -> None:
        self._deadlines = means.deadlines
        self._idle_timeout_s = means.spec.idle_timeout_s
        self._client = client
        self._record = record
        self._deadline = deadline
        self._last_due = last_due
        self.said: Said | None = None
        """While the stream can go on elsewhere."""
        self.has_spoken = False
        """Something of a generation server was sent."""

    async def say(self, events: bytes) -> None:
        """Send whole events."""
        if self.said is not None:
            self.said.add(events)
        if self._client.begun:
            self._client.feed(events)
            return
        self._deadline.due = self._last_due
        self._record.first_token = time.monotonic()
        await self._client.begin(events)

    async def end(self, events: bytes) -> None:
        """Send the last whole events."""
        await self.say(events)
        await self._client.end()

    async def fetch(self, leg: Leg, on_answer: Callable[[], None]) -> bytes:
        """Take a whole answer. It shows no tokens, so there is nothing to time: it may take as long as its server is
        there.

        :param on_answer: called when the server has answered.
        """
        self._deadline.due = self._last_due
        body = await leg.fetch(bytes)
        on_answer()
        return body

    async def relay(self, leg: Leg, due: float, on_answer: Callable[[], None]) -> None:
        """Pass a stream on to its end.

        :param due: for its first event.
        :raises LegFailedError: also when it ends without its end mark.
        :raises ConnectionError: when the client has left, or does not take it.
        """
        passage = _Passage(leg.member, self._client, self.said)
        has_begun = False
        try:
            async with self._deadlines.by(due) as silence, leg as server:
                events = await passage.first_events(server)
                silence.lift()
                has_begun = self.has_spoken = True
                leg.is_answered(is_bound=self.said is None)
                on_answer()
                await self.say(events)
                await server.pump(passage.feed, passage.drain, self._idle_timeout_s, passage.chunk_sink())
                passage.check_end()
        except TimeoutError:
            if has_begun:
                raise ConnectionResetError("the client does not take its answer") from None
            raise leg.fail("no token came in time") from None
        except LegFailedError:
            if not self._client.is_complete:
                raise
            # How the connection ends behind the last event is of no interest to the client.
        finally:
            if self._client.is_complete and leg.record.outcome == "cancelled":
                leg.record.outcome = "done"
            if self.said is not None:
                self._client.num_events = self.said.num_events
        await self._client.end()


class _Passage:
    """One server's pieces on their way.

    :param said: where what was sent is remembered; None: the stream is bound to this server.
    """

    __slots__ = ("_client", "_member", "_said", "_whole")

    def __init__(self, member: Member, client: ClientStream, said: Said | None) -> None:
        self._member = member
        self._client = client
        self._said = said
        self._whole = WholeEvents()

    async def first_events(self, server: Connection) -> bytes:
        kept = b""
        while piece := await server.next_piece():
            if self._said is None:
                kept += piece
                if not kept.startswith(b":") or b"\ndata" in kept:
                    return kept
                continue  # a comment: that the server lives, and nothing yet that binds its client to it
            if events := self._whole.feed(piece):
                return events
            self._check()
        raise LegFailedError(self._member, "the answer is empty")

    def feed(self, piece: bytes) -> bool:
        """
        :returns: False: wait for `drain` before there is more.
        """
        if self._said is None:
            return self._client.feed(piece)
        events = self._whole.feed(piece)
        if not events:
            return self._whole.error is None
        self._said.add(events)
        return self._client.feed(events) and self._whole.error is None

    def chunk_sink(self) -> ChunkSink | None:
        """What takes nearly all of a stream that is looked at: its server's framing is that of the client, too."""
        whole, said, client = self._whole, self._said, self._client
        if said is None or not client.takes_chunks:
            return None

        def take(chunks: bytes) -> bool:
            if not whole.is_between or not client.pass_on(chunks):
                return False
            said.add(chunks)
            return True

        return ChunkSink(PART_END + b"\r\n", take)

    async def drain(self) -> None:
        """
        :raises LegFailedError, RefusedError: the server has said an error.
        """
        self._check()
        await self._client.drain()

    def check_end(self) -> None:
        """
        :raises LegFailedError, RefusedError: the stream is over and has not come to its end.
        """
        self._check()
        if not self._client.is_complete:
            raise LegFailedError(self._member, "its answer broke off")

    def _check(self) -> None:
        if self._whole.error is not None:
            raise from_event(self._member, self._whole.error)
