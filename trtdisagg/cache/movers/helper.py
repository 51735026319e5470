"""The other end of `help`: listens for ranks of other servers that want help, and finds out who they are.

What is done for each of them is its `packer`'s.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from trtdisagg.cache.greeting import admit
from trtdisagg.cache.movers.packer import Packer, Sending
from trtdisagg.cache.streams import PeerStream
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.helping import FromFetcher, RankHello

log = logging.getLogger(__name__)

_DECODER = msgspec.msgpack.Decoder(FromFetcher)


class Helper:
    """`open`, then `close`."""

    def __init__(self, sending: Sending, *, secret: bytes) -> None:
        self._sending = sending
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._packing: set[asyncio.Task[None]] = set()

    async def open(self, host: str) -> int:
        """
        :return: the port where we listen.
        """
        self._server = await asyncio.start_server(self._welcome, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End all connections, each when it writes no more."""
        if self._server is not None:
            self._server.close()
        for packing in self._packing:
            packing.cancel()
        await wait_out(asyncio.gather(*self._packing, return_exceptions=True))

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packing = asyncio.create_task(self._attend(PeerStream(reader, writer, _DECODER)))
        self._packing.add(packing)
        packing.add_done_callback(self._packing.discard)

    async def _attend(self, stream: PeerStream[FromFetcher]) -> None:
        try:
            hello = await admit(stream, RankHello, self._secret)
            await Packer(self._sending, stream, hello).run()
        except HandoverError as e:
            log.info("a rank is helped no more: %s", e.message)
        finally:
            await wait_out(asyncio.ensure_future(stream.close()))
