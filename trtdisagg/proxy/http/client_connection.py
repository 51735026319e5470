"""One connection of a client: requests come in, each is answered by a task of its own, one after the other.

    bytes -> aiohttp's parser (llhttp) -> requests that wait -> the handler -> its answer in one write, or streamed

Requests and answers are aiohttp's classes; what lies between socket and handler is ours, because it takes a third of
the time: nothing waits in a loop of its own, there is no timer a connection, and a whole answer needs no writer.
The handler of a client that leaves is cancelled. Reading stops while too many requests wait, or while a handler does
not take the body that comes. What becomes of the connection when the server ends is the door's (http_server.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeGuard, cast

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.tcp_helpers import tcp_keepalive

from trtdisagg.proxy.http.not_http import MAX_HEADER_BYTES, MAX_HEADERS, MAX_LINE_BYTES, a_bug, not_http
from trtdisagg.proxy.http.whole_answer import AnyAnswer, WholeAnswer, encode_answer

READ_BYTES = 64 * 1024
"""Of a body that its handler does not take; then reading stops."""
MAX_REQUESTS = 8
"""That have come and are not answered; then reading stops, too."""
LINGER_S = 10.0
"""For the rest of a body that its handler did not take: a client that still sends does not read its answer."""

Handler = Callable[[web.BaseRequest], Awaitable[AnyAnswer]]

logger = logging.getLogger(__name__)


class Server(Protocol):
    """Whose connection it is.

    :ivar is_closing: each connection ends with its next answer.
    """

    handle: Handler
    is_closing: bool
    max_body_bytes: int

    def has_come(self, connection: ClientConnection) -> bool: ...
    def has_gone(self, connection: ClientConnection) -> None: ...


class ClientConnection(BaseProtocol):
    """
    :ivar task: answers a request; None: nothing runs.
    :ivar heard_at: when its last byte came, or its last answer ended, on the loop's clock.
    :ivar idle_since: since when nothing runs; it may be only the beginning of a request that has come since.
    """

    __slots__ = (
        "_is_deaf",
        "_server",
        "_waiting",
        "heard_at",
        "idle_since",
        "peername",
        "sockname",
        "ssl_context",
        "task",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._parser: Any = HttpRequestParser(
            self,
            loop,
            READ_BYTES,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=MAX_REQUESTS,
        )
        super().__init__(loop, self._parser)
        self._server = server
        self._waiting: deque[tuple[RawRequestMessage, StreamReader] | HttpProcessingError] = deque()
        self.task: asyncio.Task[None] | None = None
        self._is_deaf = False
        """What comes now is no request any more: it was no HTTP, or another protocol was asked for."""
        self.heard_at = self.idle_since = 0.0
        self.ssl_context = self.peername = self.sockname = None

    # --- called by the event loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tcp_keepalive(cast(asyncio.Transport, transport))
        self.heard_at = self.idle_since = self._loop.time()
        self.ssl_context = transport.get_extra_info("sslcontext")
        self.peername = transport.get_extra_info("peername")
        self.sockname = transport.get_extra_info("sockname")
        if not self._server.has_come(self):
            self._is_deaf = True

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._server.has_gone(self)
        self._waiting.clear()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self.heard_at = self._loop.time()
        try:
            messages, self._is_deaf, _ = self._parser.feed_data(data)
            self._waiting.extend(messages)
        except HttpProcessingError as e:
            self._is_deaf = True
            self._waiting.append(e)
        if self.task is None and self._waiting:
            self._begin()
        if len(self._waiting) >= MAX_REQUESTS - 1 and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The handler has taken of its body. Most come with their head, and there is nothing to go on with."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def close(self) -> None:
        """When what is written has gone out; whatever runs is cancelled then."""
        self._is_deaf = True
        if self.transport is not None:
            self.transport.close()

    # --- one request after the other --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.task = self._loop.create_task(self._run(self._waiting.popleft()))

    def _go_on(self) -> None:
        """After an answer."""
        self._parser.message_consumed()
        if self._waiting:
            self._begin()
        if self._buffer_paused and len(self._waiting) < MAX_REQUESTS // 2:
            self.data_received(b"")  # what the parser has kept
            if len(self._waiting) < MAX_REQUESTS - 1:
                self._resume_reading_for_buffer()
        if self.task is None and self._is_deaf:
            self.close()

    async def _run(self, came: tuple[RawRequestMessage, StreamReader] | HttpProcessingError) -> None:
        goes_on = False
        try:
            if isinstance(came, HttpProcessingError):
                self._write(not_http(came))
            else:
                goes_on = await self._answer(*came)
        except ConnectionError:
            pass  # the client has left
        finally:
            self.task = None
            self.heard_at = self.idle_since = self._loop.time()
            if goes_on and self.transport is not None:
                self._go_on()
            else:
                self.close()

    async def _answer(self, message: RawRequestMessage, body: StreamReader) -> bool:
        """
        :returns: the connection may go on.
        """
        if self._server.is_closing:
            message = message._replace(should_close=True)
        request = self._request(message, body)
        try:
            response = await self._server.handle(request)
            goes_on = self._goes_on(message, response)
            if isinstance(response, WholeAnswer) or _is_whole(response):
                self._write(encode_answer(response, request, keep_alive=goes_on))
                if self._paused:
                    await self._drain_helper()
            else:
                await response.prepare(request)
                await response.write_eof()
        except ConnectionError:
            raise
        except Exception:
            logger.exception("a bug in the proxy")
            if request.writer.output_size:
                return False  # the answer has begun: that it breaks off says it
            self._write(a_bug())
            return False
        return (body.is_eof() or await _take_rest(body)) and goes_on

    def _request(self, message: RawRequestMessage, body: StreamReader) -> web.BaseRequest:
        protocol: Any = self
        writer: Any = StreamWriter(protocol, self._loop)
        task: Any = self.task
        limit = self._server.max_body_bytes
        return web.BaseRequest(message, body, protocol, writer, task, self._loop, client_max_size=limit)

    def _goes_on(self, message: RawRequestMessage, response: AnyAnswer) -> bool:
        if self._server.is_closing and not response.prepared:
            return False
        wish = response.keep_alive
        return not message.should_close if wish is None else wish

    def _write(self, data: bytes) -> None:
        if self.transport is None:
            raise ConnectionResetError("the client is gone")
        self.transport.write(data)


def _is_whole(response: web.StreamResponse) -> TypeGuard[web.Response]:
    return type(response) is web.Response and not response.prepared and isinstance(response.body, bytes | None)


async def _take_rest(body: StreamReader) -> bool:
    """
    :returns: it came to its end.
    """
    try:
        async with asyncio.timeout(LINGER_S):
            while not body.is_eof():
                await body.readany()
    except (TimeoutError, web.RequestPayloadError):
        return False
    return True
