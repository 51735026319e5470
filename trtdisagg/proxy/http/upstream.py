"""One raw HTTP/1.1 connection to a server: a request goes out, an answer comes back, nothing else at once.

An answer is taken in pieces (`next_piece`), whole (`read`) or pumped: then each piece goes from the socket to a sink
inside the read callback, without a task switch, and reading stops while the sink is full. Redirects are not followed.
Which request, to whom, and what a failure means is the caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast

from trtdisagg.protocol.http1 import BadAnswerError, Head, ResponseParser

HIGH_WATER_BYTES = 64 * 1024
"""Body bytes kept for a caller that does not take them; then reading stops."""

Sink = Callable[[bytes], bool]
"""Takes a piece of the body; False: enough for now."""


class ChunkSink(NamedTuple):
    """Takes what has come as it is, framing and all, where that is whole chunks.

    :ivar end: how each chunk must end.
    :ivar take: False: they are to come as a piece of the body.
    """

    end: bytes
    take: Callable[[bytes], bool]


class BrokenError(Exception):
    """The connection broke, or what came over it is not an answer."""


class SilentError(BrokenError):
    """Nothing came for too long."""


class Connection(asyncio.Protocol):
    """A connection that is open from `connection_made` on; whoever holds it sends, reads, and releases or aborts it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._pieces: deque[bytes] = deque()
        self._num_kept_bytes = 0
        self._sink: Sink | None = None
        self._take_chunks: Callable[[bytes], bool] | None = None
        self._chunk_end = b""
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None
        self._whole: asyncio.Future[bytes] | None = None
        """Somebody waits for the whole body."""
        self._max_bytes = 0
        """Of it."""
        self._error: BrokenError | None = None
        self._last_piece_at = 0.0
        self.heard_at = 0.0
        """When the first bytes of the current answer came, on the monotonic clock; 0.0: none has."""

    # --- called by the event loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        take = self._take_chunks
        if take is not None and self._parser.is_whole_chunks(data, self._chunk_end) and take(data):
            self._last_piece_at = self._loop.time()
            return
        if not self.heard_at:
            self.heard_at = time.monotonic()
        try:
            body = self._parser.feed(data)
        except BadAnswerError as e:
            self._fail(BrokenError(str(e)))
            return
        if body:
            self._take(body)
        if self._sink is None or self._parser.complete:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        try:
            self._parser.feed_eof()
        except BadAnswerError as e:
            self._fail(BrokenError(str(exc or e)))
        self._wake()

    # --- called by the holder ---------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """The answer is complete and taken, and the server lets the connection live."""
        return self.is_open and self._parser.complete and self._parser.keep_alive and not self._pieces

    def send(self, request: bytes) -> None:
        """Write a whole request and get ready for its answer."""
        assert self._sink is None
        assert not self._pieces
        self._parser = ResponseParser()
        self._error = None
        self.heard_at = 0.0
        if self._transport is None:
            self._error = BrokenError("the connection is closed")
        else:
            self._transport.write(request)

    def abort(self) -> None:
        """Close at once, whatever is under way; for a server this is how a client leaves."""
        if self._transport is not None:
            self._transport.abort()

    async def head(self) -> Head:
        """Wait for the head of the answer.

        :raises BrokenError: when it does not come.
        """
        while self._parser.head is None:
            await self._wait()
        return self._parser.head

    async def next_piece(self) -> bytes:
        """Wait for the next piece of the body; empty: that was all.

        :raises BrokenError: when the body breaks off.
        """
        while not self._pieces:
            if self._parser.complete:
                return b""
            await self._wait()
        piece = self._pieces.popleft()
        self._num_kept_bytes -= len(piece)
        self._go_on_reading()
        return piece

    def read(self, max_bytes: int) -> asyncio.Future[bytes]:
        """The whole body, once all of it is there; then the head is, too. Nobody is woken before.

        In place of it a `BrokenError`, when it breaks off or is over the limit.
        """
        whole = self._whole = self._loop.create_future()
        self._max_bytes = max_bytes
        self._resume()
        self._gather(whole)
        return whole

    async def pump(
        self,
        sink: Sink,
        drain: Callable[[], Awaitable[None]],
        idle_timeout_s: float,
        chunk_sink: ChunkSink | None = None,
    ) -> None:
        """Pass what is left of the body to a sink as it comes, until its end.

        :param drain: waits until the sink takes more.
        :param idle_timeout_s: between two pieces; also the longest time that the sink may be full.
        :raises BrokenError: when the body breaks off; `SilentError` when nothing comes.
        :raises TimeoutError: when the sink stays full.
        """
        while self._pieces:
            if not sink(await self.next_piece()):
                await _drain(drain, idle_timeout_s)
        self._last_piece_at = self._loop.time()
        self._sink = sink
        if chunk_sink is not None:
            self._chunk_end, self._take_chunks = chunk_sink
        try:
            while not self._parser.complete:
                await self._wait_for_end_or_full(idle_timeout_s)
                if not self._reading:
                    await _drain(drain, idle_timeout_s)
                    self._last_piece_at = self._loop.time()
                    self._go_on_reading()
        finally:
            self._sink = self._take_chunks = None
            self._go_on_reading()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _take(self, body: bytes) -> None:
        if self._sink is not None:
            self._last_piece_at = self._loop.time()
            if not self._sink(body):
                self._stop_reading()
                self._wake()
            return
        self._pieces.append(body)
        self._num_kept_bytes += len(body)
        if self._num_kept_bytes > HIGH_WATER_BYTES and self._whole is None:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _go_on_reading(self) -> None:
        if self._num_kept_bytes <= HIGH_WATER_BYTES:
            self._resume()

    def _resume(self) -> None:
        if not self._reading:
            self._reading = True
            if self._transport is not None:
                self._transport.resume_reading()

    def _gather(self, whole: asyncio.Future[bytes]) -> None:
        """Hand the whole body over, if it is there, or what has become of it."""
        if self._num_kept_bytes > self._max_bytes:
            self._error = BrokenError(f"the answer is longer than {self._max_bytes} bytes")
        if whole.done():  # nobody waits any more
            self._whole = None
        elif self._error is not None:
            self._whole = None
            whole.set_exception(self._error)
        elif self._parser.complete:
            self._whole = None
            pieces, self._num_kept_bytes = self._pieces, 0
            whole.set_result(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    async def _wait_for_end_or_full(self, idle_timeout_s: float) -> None:
        # One timer for many pieces: it looks at the time of the last one when it fires.
        silent_s = self._loop.time() - self._last_piece_at
        try:
            async with asyncio.timeout(idle_timeout_s - silent_s):
                await self._wait()
        except TimeoutError:
            if self._loop.time() - self._last_piece_at >= idle_timeout_s:
                raise SilentError(f"nothing came for {idle_timeout_s:g} s") from None

    async def _wait(self) -> None:
        """Wait until the loop has brought something.

        :raises BrokenError: when nothing more can come.
        """
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._whole is not None:
            self._gather(self._whole)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: BrokenError) -> None:
        self._error = self._error or error
        self.abort()
        self._wake()


async def _drain(drain: Callable[[], Awaitable[None]], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        await drain()
