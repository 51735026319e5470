"""The proxy's HTTP server: one handler for every request, no application, no router, no access log.

A server that closes its door takes no new connection. Those it has are closed when nothing runs on them and their
client is quiet: a request that was on its way is answered still. How a connection serves is known by
client_connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

from trtdisagg.net import BACKLOG
from trtdisagg.proxy.http.client_connection import ClientConnection, Handler
from trtdisagg.proxy.http.not_http import too_many

KEEP_ALIVE_S = 75.0
"""For a connection to bring a whole head: the first, or the next. Longer than reverse proxies keep one they use. It may
be a quarter more."""
HANDSHAKE_S = 10.0
"""For TLS to be agreed on: only then does a connection count as one."""
QUIET_S = 0.5
"""After its last byte a client counts as quiet: longer than a request is on its way."""
SHUTDOWN_TIMEOUT_S = 0.5
"""For handlers that still run when the server ends: then they are cancelled."""


class Door:
    """Where clients come in."""

    def __init__(
        self, handler: Handler, max_body_bytes: int, *, keep_alive_s: float, max_connections: int | None
    ) -> None:
        self.handle: Handler = handler
        self.max_body_bytes = max_body_bytes
        self._keep_alive_s = keep_alive_s
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None
        self.connections: set[ClientConnection] = set()
        self.is_closing = False

    async def open(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        for sock in sockets:
            server = await self._loop.create_server(
                lambda: ClientConnection(self, self._loop),
                sock=sock,
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            )
            self._servers.append(server)
        self._close_idle()

    async def close(self) -> None:
        """Accept nobody any more. The sockets stay with whoever else has them open, as do those who wait there."""
        self.is_closing = True
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def until_quiet(self) -> None:
        """Close connections as they fall quiet, until there are only such on which something runs."""
        while idle := [c for c in self.connections if c.task is None]:
            next_s = min(c.heard_at for c in idle) + QUIET_S - self._loop.time()
            if next_s > 0:
                await asyncio.sleep(next_s)
                continue
            for connection in idle:
                if connection.heard_at + QUIET_S <= self._loop.time():
                    self.connections.discard(connection)
                    connection.close()

    async def end(self) -> None:
        """Close all connections: those on which something runs a little later, if need be by force."""
        await self.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self.connections):
            if connection.task is None:
                connection.close()
        if running := [task for c in self.connections if (task := c.task) is not None]:
            await asyncio.wait(running, timeout=SHUTDOWN_TIMEOUT_S)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for connection in list(self.connections):
            connection.close()

    # --- told by connections ----------------------------------------------------------------------------------------

    def has_come(self, connection: ClientConnection) -> bool:
        """
        :returns: it may stay.
        """
        if self._max_connections is not None and len(self.connections) >= self._max_connections:
            assert connection.transport is not None
            connection.transport.write(too_many())
            connection.close()
            return False
        self.connections.add(connection)
        return True

    def has_gone(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)

    def _close_idle(self) -> None:
        before = self._loop.time() - self._keep_alive_s
        for connection in list(self.connections):
            if connection.task is None and connection.idle_since <= before:
                connection.close()
        self._sweep = self._loop.call_later(self._keep_alive_s / 4, self._close_idle)


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
    door = Door(handler, max_body_bytes, keep_alive_s=keep_alive_s, max_connections=max_connections)
    try:
        await door.open(sockets, tls)
        yield door
    finally:
        await door.end()
