"""The stream between two servers, or ranks of them: messages of protocol/peers.py in frames of bounded size.

Both asyncio and uvloop set TCP_NODELAY by themselves, so a message leaves when it is sent.

It knows messages and sockets. Who may read KV is found out by `greeting`; what messages mean for blocks is the
business of whoever has the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import msgspec

from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.frames import LENGTH_BYTES, UNREADABLE, frame, read_length
from trtdisagg.protocol.peers import Ping

MAX_FRAME_BYTES = 1 << 20
CLOSE_TIMEOUT_S = 1.0
KEEPALIVE_S = 3.0
"""How often the generation side gives a sign of life."""
SILENT_BEATS = 4
"""A side that hears nothing for so many of them takes the other for gone."""

Incoming = TypeVar("Incoming")


class PeerLostError(HandoverError):
    """The stream has ended, or the other side is silent, or does not speak our protocol."""

    has_ended = False
    """The other side, or the kernel after its death, has closed the connection."""


class PeerStream(Generic[Incoming]):
    """Messages over one connection.

    :param decoder: reads what the other side sends.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[Incoming],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    async def receive(self, timeout_s: float | None) -> Incoming:
        """Wait for the next message.

        :param timeout_s: None: the other side may be silent for as long as it likes.

        :raises PeerLostError: when none comes in time or ever, or it cannot be read.
        """
        try:
            async with asyncio.timeout(timeout_s):
                length = read_length(await self._reader.readexactly(LENGTH_BYTES), MAX_FRAME_BYTES)
                return self._decoder.decode(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as e:
            if isinstance(e, TimeoutError) and e.errno is None:  # ours, not the kernel's
                raise PeerLostError(f"the peer was silent for {timeout_s:g} s") from None
            why = ": its host does not answer" if isinstance(e, TimeoutError) else ""
            lost = PeerLostError(f"the connection to the peer was lost{why}")
            lost.has_ended = isinstance(e, (asyncio.IncompleteReadError, ConnectionResetError))
            raise lost from e
        except UNREADABLE as e:
            raise PeerLostError(f"the peer sent what is not of our protocol: {e}") from e

    def send(self, message: msgspec.Struct) -> None:
        """Send without waiting: messages are few and small, and a peer that takes none is silent soon.

        That the connection is lost is for `receive` to say.
        """
        body = msgspec.msgpack.encode(message)
        assert len(body) <= MAX_FRAME_BYTES
        if not self._writer.is_closing():  # uvloop raises where asyncio says nothing
            self._writer.write(frame(body))

    @asynccontextmanager
    async def kept_alive(self, every_s: float) -> AsyncIterator[None]:
        """Give signs of life until the end of the block."""
        beating = asyncio.create_task(self._beat(every_s))
        try:
            yield
        finally:
            beating.cancel()
            await wait_out(beating)

    async def _beat(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            self.send(Ping())

    def abort(self) -> None:
        """End the connection now; whoever receives gets a PeerLostError."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is left, for a short while, and end the connection."""
        self._writer.close()
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()
