"""One streamed answer on its way to the client: server-sent events, framed by hand.

aiohttp sends the head and the end; between them bytes go straight to the transport, which costs less than its own way.
A client that does not keep up shows in `is_full`.
"""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

HIGH_WATER_BYTES = 64 * 1024
"""asyncio's own: above it `drain` waits."""

_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class EventStream:
    """One answer; nothing is sent until `begin`."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        self._request = request
        self._chunked = request.version >= HttpVersion11
        self._transport: asyncio.Transport

    async def begin(self, data: bytes) -> None:
        """Send the head and the first events.

        :raises ConnectionError: when the client has left.
        """
        if self._request.transport is None:
            raise ConnectionResetError("the client has left")
        self._transport = self._request.transport
        await self.response.prepare(self._request)
        await self.response.write(data)

    def write(self, data: bytes) -> None:
        """Send events; to a client that has left, nothing."""
        if data and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    @property
    def is_full(self) -> bool:
        """The client does not keep up."""
        transport = self._transport
        return not transport.is_closing() and transport.get_write_buffer_size() > HIGH_WATER_BYTES

    async def drain(self) -> None:
        """Wait until the client has taken enough.

        :raises ConnectionError: when it has left.
        """
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")
        await self._request.writer.drain()

    async def end(self) -> None:
        await self.response.write_eof()
