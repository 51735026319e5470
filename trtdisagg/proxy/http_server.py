"""aiohttp's bare server: one handler for every request, no application, no router, no access log.

The handler of a client that leaves is cancelled. A server that closes its door takes no new connection. Those it has
are closed when nothing runs on them and their client is quiet: a request that was on its way is answered still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from trtdisagg.errors import OverloadedError, RequestError, TrtdisaggError
from trtdisagg.net import BACKLOG
from trtdisagg.protocol.answers import encode_error
from trtdisagg.proxy.ids import make_id

logger = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEP_ALIVE_S = 75.0
"""For a connection to bring a whole head: the first, or the next. Longer than reverse proxies keep one they use."""
QUIET_S = 0.5
"""After its last byte a client counts as quiet: longer than a request is on its way."""
MAX_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 16 * 1024
"""Name and value of one."""
MAX_HEADERS = 100
MAX_REASON_CHARS = 200
SHUTDOWN_TIMEOUT_S = 0.5
"""For handlers that still run when the server ends: then they are cancelled."""


class LineTooLongError(RequestError):
    """The request's first line is over the limit."""

    http_status = 414
    code = "uri_too_long"


class HeadersTooLargeError(RequestError):
    """A header is over the limit, or there are too many."""

    http_status = 431
    code = "headers_too_large"


class Door:
    """Where clients come in."""

    def __init__(self, handler: Handler, max_connections: int | None) -> None:
        self._handler = handler
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._sites: list[web.SockSite] = []
        self.connections: set[_Connection] = set()
        self.is_closing = False

    async def close(self) -> None:
        """Accept nobody any more. The sockets stay with whoever else has them open, as do those who wait there."""
        self.is_closing = True
        for site in self._sites:
            await site.stop()
        self._sites.clear()

    async def until_quiet(self) -> None:
        """Close connections as they fall quiet, until there are only such on which something runs."""
        while idle := [c for c in self.connections if not c.num_running]:
            next_s = min(c.heard_at for c in idle) + QUIET_S - self._loop.time()
            if next_s > 0:
                await asyncio.sleep(next_s)
                continue
            for connection in idle:
                if connection.heard_at + QUIET_S <= self._loop.time():
                    self.connections.discard(connection)
                    connection.force_close()

    @property
    def is_full(self) -> bool:
        return self._max_connections is not None and len(self.connections) >= self._max_connections

    async def open(
        self, runner: web.ServerRunner, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None
    ) -> None:
        for sock in sockets:
            site = web.SockSite(runner, sock, backlog=BACKLOG, ssl_context=tls)
            await site.start()
            self._sites.append(site)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(_Connection, request.protocol)
        connection.num_running += 1
        try:
            response = await self._handler(request)
        finally:
            connection.num_running -= 1
            connection.heard_at = self._loop.time()
        if self.is_closing and not response.prepared:
            response.force_close()
        return response


@contextlib.asynccontextmanager
async def serving(
    handler: Handler,
    sockets: Sequence[socket.socket],
    max_body_bytes: int,
    *,
    keep_alive_s: float = KEEP_ALIVE_S,
    max_connections: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Door]:
    """Serve on sockets that listen already, while the block runs.

    :param max_body_bytes: reading a longer request body raises aiohttp's HTTPRequestEntityTooLarge.
    :param max_connections: open at once; one more is told to come again, and closed.
    """
    loop = asyncio.get_running_loop()
    door = Door(handler, max_connections)

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        if door.is_closing:
            message = message._replace(should_close=True)
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)

    server = _Server(
        door,
        request_factory=make_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=keep_alive_s,
        auto_decompress=False,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await door.open(runner, sockets, tls)
        yield door
    finally:
        await runner.cleanup()


class _Server(web.Server):
    def __init__(self, door: Door, **options: Any) -> None:
        super().__init__(door.handle, **options)
        self._door = door

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._door, self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    def __init__(self, door: Door, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._door = door
        self.num_running = 0
        self.heard_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._door.is_full:
            _send_away(cast(asyncio.Transport, transport))
            return
        super().connection_made(transport)
        self.heard_at = self._loop.time()
        self._door.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return  # it was sent away
        self.heard_at = self._loop.time()
        super().data_received(data)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp itself refuses is answered in OpenAI's form, and not logged: any client could fill the log."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if status >= 500:
            logger.error("a bug in the proxy", exc_info=exc)
        error = _refusal(status, (message or str(exc) or "no reason is known").strip().splitlines()[0], exc)
        headers = {"X-Request-Id": make_id()}
        answer = web.Response(
            status=error.http_status, body=encode_error(error), content_type="application/json", headers=headers
        )
        answer.force_close()
        return answer


def _send_away(transport: asyncio.Transport) -> None:
    body = encode_error(OverloadedError("Too many connections are open; come again later"))
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    transport.write(f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body)
    transport.close()


def _refusal(status: int, reason: str, exc: BaseException | None) -> TrtdisaggError:
    if status >= 500:
        return TrtdisaggError("Internal error; the proxy's log has more")
    if isinstance(exc, LineTooLong):
        if exc.args[1] == MAX_LINE_BYTES:
            return LineTooLongError(f"The first line is longer than {MAX_LINE_BYTES} bytes")
        return HeadersTooLargeError(f"A header is longer than {MAX_HEADER_BYTES} bytes")
    if reason == "Too many headers received":
        return HeadersTooLargeError(f"There are more than {MAX_HEADERS} headers")
    return RequestError(f"The request is not valid HTTP: {reason[:MAX_REASON_CHARS]}")
