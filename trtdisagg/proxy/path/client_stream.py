"""The client's side of a streamed answer: server-sent events, framed by hand.

aiohttp sends the head and the end; between them bytes go straight to the transport, which costs a sixth of its own
way. The client's back-pressure shows in `feed`'s result. What the bytes say is not known here, but for the end mark,
without which a stream has broken off.
"""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.responses.form import Form

HIGH_WATER_BYTES = 64 * 1024
"""asyncio's own: above it `drain` waits."""

_END_MARK = b"data: [DONE]"
_TAIL_BYTES = len(_END_MARK) + len(b"\r\n\r\n")
_EVENT_END = b"\n\n"
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientStream:
    """One streamed answer; nothing is sent until `begin`."""

    def __init__(self, request: web.BaseRequest, visit: Visit) -> None:
        self._request = request
        self.visit = visit
        self._chunked = request.version >= HttpVersion11
        self.form: Form | None = None
        """What the client asked for is told in another form than servers speak."""
        self.begun = False
        self.num_events = 0
        """As they are sent by our servers: none is cut in two."""
        self.response: web.StreamResponse
        self._writer: AbstractStreamWriter
        self._transport: asyncio.Transport
        self._last = b""
        """The last bytes, enough of them for an end mark."""

    async def begin(self, data: bytes) -> None:
        """Send the head and the first bytes.

        :raises ConnectionError: when the client is gone.
        """
        if self._request.transport is None:
            raise ConnectionResetError("the client is gone")
        self.begun = True
        self._transport = self._request.transport
        last = data
        self.num_events = data.count(_EVENT_END)
        if self.form is not None:
            data = self.form.begin(data)
        self.response = web.StreamResponse(headers={**_HEADERS, **self.visit.headers()})
        if not self._chunked:
            self.response.force_close()  # nothing else says where it ends, whatever the client wishes
        writer = await self.response.prepare(self._request)
        await self.response.write(data)
        if writer is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._writer, self._last = writer, last

    def feed(self, data: bytes) -> bool:
        """Send bytes; False: the client does not keep up."""
        if self._transport.is_closing():
            return True
        self._last = data if len(data) >= _TAIL_BYTES else self._last[-_TAIL_BYTES:] + data
        self.num_events += data.count(_EVENT_END)
        if self.form is not None:
            data = self.form.feed(data)
        return self._send(data)

    def pass_on(self, chunks: bytes) -> bool:
        """Send whole chunks of whole events, none of them the end mark, as they are. They are not counted.

        :returns: they were sent; otherwise they are to be fed.
        """
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size() > HIGH_WATER_BYTES:
            return False
        self._last = _EVENT_END
        transport.write(chunks)
        return True

    def _send(self, data: bytes) -> bool:
        if data:  # a chunk of nothing would be the end
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return self._transport.get_write_buffer_size() <= HIGH_WATER_BYTES

    async def drain(self) -> None:
        """Wait until the client has taken enough; a client that never does is cut off by the kernel (listen.py).

        :raises ConnectionError: when the client is gone.
        """
        await self._writer.drain()

    @property
    def takes_chunks(self) -> bool:
        """Chunks of servers may be passed on as they are."""
        return self._chunked and self.form is None

    @property
    def is_complete(self) -> bool:
        """The last event was the end mark."""
        return self._last.rstrip().endswith(_END_MARK)

    async def fail(self, error: bytes) -> None:
        """Say, as the last event, why the answer ends here.

        :param error: the body of an error answer.
        """
        if self.form is not None:
            self._send(self.form.fail(error))
        else:
            broken_off = not self._last.endswith(b"\n\n")
            self.feed(b"%bdata: %b\n\n" % (b"\n\n" if broken_off else b"", error))
        await self.end()

    async def end(self) -> None:
        await self.response.write_eof()
