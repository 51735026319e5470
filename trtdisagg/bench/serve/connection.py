"""One raw HTTP/1.1 connection to the endpoint: a request goes out, and its answer is timed as its bytes arrive.

With an HTTP library the time would be that of the task which is woken to read. Here a chunk is one callback, which
notes the time and keeps the bytes. They are read some chunks later, many in a row: that costs less, and where tokens of
a thousand streams come in one moment, the last of them waits for the others to be noted, not for them to be read.
"""

from __future__ import annotations

import asyncio
import time
from random import randint
from typing import Protocol, cast

from trtdisagg.bench.serve.reception import NotAnAnswerError
from trtdisagg.protocol.http1 import BadAnswerError, ResponseParser

MAX_UNREAD = 64
"""Chunks of an answer; then they are read. Where in this range is by chance, so that streams that began together do not
all read together."""
_EVENT_END = b"}\n\n\r\n"
"""Of a chunk that is a whole event, as almost all are, and not the last."""


class Reception(Protocol):
    """Takes the body of an answer; see reception.py.

    :ivar is_prompt: it is to have each chunk at once.
    """

    has_left: bool
    is_prompt: bool

    def take(self, body: bytes, at: float) -> None: ...


class Answer:
    """What has come: the status, and when it was complete. The body went to the reception."""

    def __init__(self, status: int, ended_at: float) -> None:
        self.status = status
        self.ended_at = ended_at


class LostError(Exception):
    """The connection ended before the answer did.

    :param is_stale: before the first byte; the server may have closed it while nobody used it.
    """

    def __init__(self, message: str, *, is_stale: bool) -> None:
        super().__init__(message)
        self.is_stale = is_stale


class Connection(asyncio.Protocol):
    """Whoever holds it asks one thing after the other, and aborts it in the end.

    :ivar num_asked: requests so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.num_asked = 0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._reception: Reception | None = None
        self._error_body: Reception | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._is_heard = False
        self._unread: list[tuple[bytes, float]] = []
        self._max_unread = 0

    @property
    def is_reusable(self) -> bool:
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and self._parser.complete and self._parser.keep_alive and not self._unread

    @property
    def address(self) -> tuple[str, int]:
        """Of the other end."""
        assert self._transport is not None
        host, port, *_ = self._transport.get_extra_info("peername")
        return host, port

    async def ask(self, request: bytes, body: Reception, error_body: Reception) -> Answer:
        """Send a request and have its answer received.

        :param body: of an answer with status 200.
        :param error_body: of any other one.
        :raises LostError: the connection ended too early.
        :raises BadAnswerError: what came is not HTTP.
        :raises NotAnAnswerError: the reception says so.
        """
        self._parser = ResponseParser()
        self._reception, self._error_body = body, error_body
        self._is_heard = False
        self._unread.clear()
        self._max_unread = 0 if body.is_prompt else randint(1, MAX_UNREAD)
        self.num_asked += 1
        self._answered = self._loop.create_future()
        if self._transport is None:
            raise LostError("the connection was closed", is_stale=True)
        self._transport.write(request)
        try:
            return await self._answered
        finally:
            self._answered = self._reception = self._error_body = None

    def abort(self) -> None:
        """Close at once; for the server this is how a client leaves."""
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        unread = self._unread
        unread.append((data, time.monotonic()))
        if len(unread) >= self._max_unread or not data.endswith(_EVENT_END):
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._read()
        self._transport = None
        try:
            self._parser.feed_eof()
        except BadAnswerError as e:
            self._fail(LostError(str(exc or e), is_stale=not self._is_heard))
        else:
            self._finish(time.monotonic())

    def _read(self) -> None:
        """All that has come."""
        unread, self._unread = self._unread, []
        parser = self._parser
        if unread and self._max_unread:
            self._max_unread = MAX_UNREAD
        try:
            for data, at in unread:
                if body := parser.feed(data):
                    self._take(body, at)
                if parser.complete:
                    self._finish(at)
        except (BadAnswerError, NotAnAnswerError) as e:
            self._fail(e)

    def _take(self, body: bytes, at: float) -> None:
        head, reception = self._parser.head, self._reception
        assert head is not None
        if reception is None:  # nobody waits any more
            return
        if head.status != 200:
            assert self._error_body is not None
            self._error_body.take(body, at)
            return
        reception.take(body, at)
        if reception.has_left:
            self._finish(at)
            self.abort()

    def _finish(self, at: float) -> None:
        if self._answered is not None and not self._answered.done():
            assert self._parser.head is not None
            self._answered.set_result(Answer(self._parser.head.status, at))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self.abort()
