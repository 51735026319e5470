"""HTTP/1.1 as far as a fake engine needs it: importing aiohttp would take four fifths of its start.

Requests with Content-Length, whole answers and chunked streams, connections that stay open. A client that leaves
cancels the handler of its request.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_MAX_HEAD_BYTES = 64 * 1024


@dataclass
class Response:
    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class BadRequestError(Exception):
    """It cannot be understood; the connection ends."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names like `Content-Length`, however they were written."""
    connection: Connection
    body: bytes = b""


Handler = Callable[[Request], Awaitable[Response | None]]
"""None: it has written a stream itself."""


class HttpServer:
    """
    :param max_body_bytes: a longer one is answered 413 and the connection ended.
    """

    def __init__(self, handler: Handler, *, max_body_bytes: int) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.connections: set[Connection] = set()

    async def listen(self, host: str, port: int) -> int:
        """Returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        taken: int = self._server.sockets[0].getsockname()[1]
        return taken

    async def close(self) -> None:
        """Cancel what is being answered, let the handlers say their last words, and end."""
        self._server.close()
        answering = [c.task for c in self.connections if c.task is not None]
        for task in answering:
            task.cancel()
        if answering:
            await asyncio.wait(answering, timeout=1)
        for connection in list(self.connections):
            connection.transport.close()


class Connection(asyncio.Protocol):
    """One client; its requests are answered in order."""

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._unread = bytearray()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._may_write.set()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._go_on()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _go_on(self) -> None:
        if self.task is not None or self.transport.is_closing():
            return
        try:
            request = self._next_request()
        except BadRequestError as e:
            self._send(Response(str(e).encode(), 413 if "large" in str(e) else 400, "text/plain"))
            self.transport.close()
            return
        if request is not None:
            self.task = asyncio.create_task(self._answer(request))

    def _next_request(self) -> Request | None:
        head, separator, _ = bytes(self._unread).partition(b"\r\n\r\n")
        if not separator:
            if len(head) > _MAX_HEAD_BYTES:
                raise BadRequestError("the head is too large")
            return None
        request = _parse_head(head.decode("latin-1"), self)
        length = int(request.headers.get("Content-Length", 0))
        if length > self._server.max_body_bytes:
            raise BadRequestError("the body is too large")
        start = len(head) + len(separator)
        if len(self._unread) < start + length:
            return None
        request.body = bytes(self._unread[start : start + length])
        del self._unread[: start + length]
        return request

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._server.handler(request)
            if response is not None:
                self._send(response)
        except ConnectionError:
            return
        except Exception:  # noqa: BLE001 (shown, and the client sees that there is no answer)
            traceback.print_exc()
            self.transport.abort()
            return
        finally:
            self.task = None
        self._go_on()

    def _send(self, response: Response) -> None:
        headers = {"Content-Type": response.content_type, "Content-Length": str(len(response.body)), **response.headers}
        self.transport.write(_head(response.status, headers) + response.body)

    # --- streams ----------------------------------------------------------------------------------------------------

    def begin_stream(self, content_type: str) -> None:
        self.transport.write(_head(200, {"Content-Type": content_type, "Transfer-Encoding": "chunked"}))

    async def write(self, data: bytes) -> None:
        """
        :raises ConnectionError: when the client is gone.
        """
        await self._may_write.wait()
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if data:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.write(b"")
        self.transport.write(b"0\r\n\r\n")


def _parse_head(head: str, connection: Connection) -> Request:
    first, *lines = head.split("\r\n")
    try:
        method, target, _ = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = {name.strip().title(): value.strip() for name, value in pairs}
    except ValueError:
        raise BadRequestError(f"not HTTP: {first[:80]!r}") from None
    if "Transfer-Encoding" in headers:
        raise BadRequestError("a body needs a Content-Length here")
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query)), headers, connection)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def post(host: str, port: int, path: str, body: bytes, *, timeout_s: float) -> int:
    """Returns the status of the answer.

    :raises OSError: when there is none in time.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            length = f"Content-Length: {len(body)}\r\nConnection: close"
            writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{length}\r\n\r\n".encode() + body)
            words = (await reader.readline()).split(b" ", 2)
        finally:
            writer.close()
    if len(words) < 2:
        raise ConnectionResetError("no answer")
    return int(words[1])
