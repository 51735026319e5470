"""Connections to servers, kept open between requests.

    head, body = await pool.exchange(url, "POST", path, body).fetch(max_bytes)

    async with pool.exchange(url, "POST", path, body) as (head, connection):
        piece = await connection.next_piece()

On the way out a connection whose answer was taken whole goes back to the pool; any other is closed at once, which
cancels the request on the server. Retrying elsewhere is the caller's.
"""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from trtdisagg.net import split_address
from trtdisagg.protocol.http1 import Head
from trtdisagg.proxy.http.upstream import BrokenError, Connection

CONNECT_TIMEOUT_S = 3.0
MAX_IDLE_S = 30.0
"""Longer idle connections are closed: less than any server's own keep-alive limit that we know of."""
MAX_IDLE_CONNECTIONS = 256
"""Per server."""


_T = TypeVar("_T")


class UnreachableError(Exception):
    """No connection: the server has not seen the request."""


class Pool:
    """All idle connections of this process.

    :param secret: the cluster's; sent with each request.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[str, deque[tuple[float, Connection]]] = defaultdict(deque)
        authorization = f"Authorization: Bearer {secret}\r\n" if secret else ""
        self._common = f"Content-Type: application/json\r\n{authorization}".encode()

    def exchange(
        self, url: str, method: str, path: str, body: bytes = b"", request_id: str = "-", *, more: bytes = b""
    ) -> Exchange:
        """Prepare a request; it is sent on entering the result.

        :param url: host:port.
        :param request_id: visible ASCII; passed on as X-Request-Id.
        :param more: lines of the head, each with its end.
        """
        start, id_ = _start(method, path, url), request_id.encode()
        lines = (start, id_, self._common, more, len(body), body)
        return Exchange(self, url, b"%bX-Request-Id: %b\r\n%b%bContent-Length: %d\r\n\r\n%b" % lines)

    def take_idle(self, url: str) -> Connection | None:
        """The connection used last, if one is idle."""
        idle = self._idle[url]
        while idle:
            since, connection = idle.pop()
            if connection.is_reusable and self._loop.time() - since < MAX_IDLE_S:
                return connection
            connection.abort()  # old, closed, or something came that nobody had asked for
        return None

    async def connect(self, url: str) -> Connection:
        """Open a new connection.

        :raises UnreachableError: when that is not possible in time.
        """
        try:
            host, port = split_address(url)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await self._loop.create_connection(lambda: Connection(self._loop), host, port)
        except TimeoutError:
            raise UnreachableError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
        except (OSError, ValueError) as e:
            raise UnreachableError(str(e)) from e
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection whose answer was taken whole, close any other."""
        idle = self._idle[url]
        if not connection.is_reusable or len(idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
            return
        idle.append((self._loop.time(), connection))

    def close_old(self) -> None:
        """Close connections that were idle for long or were closed by their servers; to be called now and then."""
        now = self._loop.time()
        for url, idle in list(self._idle.items()):
            kept: deque[tuple[float, Connection]] = deque()
            for since, connection in idle:
                if now - since < MAX_IDLE_S and connection.is_open:
                    kept.append((since, connection))
                else:
                    connection.abort()
            if kept:
                self._idle[url] = kept
            else:
                del self._idle[url]

    def close_idle(self, url: str | None = None) -> None:
        """Close idle connections: to one server, or all."""
        for key in [url] if url is not None else list(self._idle):
            for _, connection in self._idle.pop(key, ()):
                connection.abort()


@functools.lru_cache(maxsize=1024)
def _start(method: str, path: str, url: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {url}\r\n".encode()


class Exchange:
    """One request and its answer: taken whole, or in pieces from `async with` to the end of the block."""

    def __init__(self, pool: Pool, url: str, request: bytes) -> None:
        self._pool = pool
        self._url = url
        self._request = request
        self._connection: Connection | None = None
        self._is_given_up = False

    async def fetch(self, max_bytes: int) -> tuple[Head, bytes]:
        """Ask, and take the whole answer, whatever its status.

        :raises UnreachableError, BrokenError: as on entering.
        """
        body = await self._ask(lambda connection: connection.read(max_bytes))
        connection = self._connection
        assert connection is not None
        head = await connection.head()
        self._pool.give_back(self._url, connection)
        return head, body

    async def __aenter__(self) -> tuple[Head, Connection]:
        """Connect, send, wait for the head of the answer; the body is to be taken from the connection.

        :raises UnreachableError: the server has not seen the request.
        :raises BrokenError: it may have.
        """
        head = await self._ask(Connection.head)
        assert self._connection is not None
        return head, self._connection

    async def _ask(self, take: Callable[[Connection], Awaitable[_T]]) -> _T:
        """
        :param take: what is waited for, once the request is on its way.
        """
        while True:
            idle = self._pool.take_idle(self._url)
            connection = self._connection = idle or await self._connect()
            try:
                if self._is_given_up:
                    raise BrokenError("it was given up")
                connection.send(self._request)
                taken = await take(connection)
            except BaseException as e:
                connection.abort()
                # The server may have closed an idle connection while our request was on its way.
                is_stale = idle is not None and isinstance(e, BrokenError) and not idle.heard_at
                if not is_stale or self._is_given_up:
                    raise
            else:
                self._request = b""  # a prompt may be long, and its stream longer still
                return taken
            self._pool.close_idle(self._url)  # the others are as old

    async def _connect(self) -> Connection:
        try:
            return await self._pool.connect(self._url)
        except UnreachableError as e:
            if self._connection is None:
                raise
            raise BrokenError(f"the connection was closed, and now {e}") from e  # perhaps by what was asked

    @property
    def heard_at(self) -> float:
        """When the answer began, on the monotonic clock; 0.0: it has not."""
        return 0.0 if self._connection is None else self._connection.heard_at

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._connection is not None
        self._pool.give_back(self._url, self._connection)

    def give_up(self) -> None:
        """Close the connection, so that whoever waits for the answer gets a `BrokenError`."""
        self._is_given_up = True
        if self._connection is not None:
            self._connection.abort()
