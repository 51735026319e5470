"""The other end of `help`: packs for ranks of other servers, and writes into their staging buffers.

    connection -> greeting -> for each piece: a slot | packed by a thread | read by the other, or written to it | free

A connection ends when its last write has ended. What the other said it would read is kept until it is done with it, or
its connection ends, or it is silent: whoever comes back after that is not told `Freed`, and throws away what it read.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import numpy as np

from trtdisagg.cache.copying import copy_within
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.pieces import into_slot, read_asked
from trtdisagg.cache.movers.serving import Serving
from trtdisagg.cache.movers.staging import Slots
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.streams import GREETING_TIMEOUT_S, KEEPALIVE_S, SILENT_BEATS, PeerLostError, PeerStream, prove
from trtdisagg.cache.transports import Link, Transport
from trtdisagg.cache.waiting import in_thread, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.helping import (
    Done,
    Freed,
    FromFetcher,
    Measured,
    Pack,
    Packed,
    Push,
    Pushed,
    RankHello,
    RankWelcome,
    Unable,
)
from trtdisagg.protocol.peers import Challenge, Ping, Refused

log = logging.getLogger(__name__)

_DECODER = msgspec.msgpack.Decoder(FromFetcher)


class Helper:
    """Listens for ranks that want help. `open`, then `close`.

    :param slots: to send from.
    :param transports: over our pool; the first that can write and that the other has too writes to it.
    :param concurrency: pieces that are packed or written at once.
    """

    def __init__(
        self,
        pool: KvPool,
        slots: Slots,
        transports: Sequence[Transport],
        serving: Serving,
        *,
        secret: bytes,
        concurrency: int,
    ) -> None:
        self.pool = pool
        self.slots = slots
        self.transports = transports
        self.serving = serving
        self.threads = ThreadPoolExecutor(concurrency, "kv-send")
        self._secret = secret
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

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
        for visit in self._visits:
            visit.cancel()
        await wait_out(asyncio.gather(*self._visits, return_exceptions=True))
        self.threads.shutdown()

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.create_task(self._attend(PeerStream(reader, writer, _DECODER)))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _attend(self, stream: PeerStream[FromFetcher]) -> None:
        try:
            hello = await self._greet(stream)
            await Visit(self, stream, hello).run()
        except HandoverError as e:
            log.info("a rank is helped no more: %s", e.message)
        finally:
            await wait_out(asyncio.ensure_future(stream.close()))

    async def _greet(self, stream: PeerStream[FromFetcher]) -> RankHello:
        nonce = secrets.token_bytes(32)
        stream.send(Challenge(nonce=nonce))
        hello = await stream.receive(GREETING_TIMEOUT_S)
        reason = None
        if not isinstance(hello, RankHello):
            raise PeerLostError(f"the peer sent {type(hello).__name__} before its greeting")
        if not hmac.compare_digest(hello.proof, prove(nonce, self._secret)):
            reason = "the secret is not this cluster's"
        elif hello.wire_version != WIRE_VERSION:
            reason = f"wire version {hello.wire_version} meets {WIRE_VERSION}"
        if reason is not None:
            stream.send(Refused(reason=reason))
            raise HandoverError(f"{hello.incarnation}, rank {hello.rank}: {reason}")
        return hello


class Visit:
    """One rank that is helped."""

    def __init__(self, helper: Helper, stream: PeerStream[FromFetcher], hello: RankHello) -> None:
        self._helper = helper
        self._stream = stream
        self._hello = hello
        self._work: dict[int, asyncio.Task[None]] = {}
        """By piece: what is packed or written, and what waits to be read."""
        self._link: asyncio.Task[Link] | None = None
        """To its staging buffer, from the first push on."""

    async def run(self) -> None:
        """Do what is asked until the connection ends.

        :raises HandoverError: with the reason.
        """
        self._stream.send(RankWelcome(slot_bytes=self._helper.slots.slot_bytes))
        try:
            with self._helper.serving.needed():  # it measures the link now
                while not isinstance(message := await self._receive(), Measured):
                    self._handle(message)
            while True:
                self._handle(await self._receive())
        finally:
            await wait_out(asyncio.ensure_future(self._end()))

    async def _receive(self) -> FromFetcher:
        return await self._stream.receive(KEEPALIVE_S * SILENT_BEATS)

    def _handle(self, message: FromFetcher) -> None:
        match message:
            case Pack(piece=piece) if piece not in self._work:
                self._start(piece, self._pack(message))
            case Push(piece=piece) if piece not in self._work:
                self._start(piece, self._push(message))
            case Done(piece=piece) if piece in self._work:
                self._work[piece].cancel()
            case Ping() | Done() | Measured():
                pass
            case _:
                raise PeerLostError(f"the peer sent {type(message).__name__}, which has no place here")

    def _start(self, piece: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._work[piece] = asyncio.create_task(work)
        task.add_done_callback(partial(self._ended, piece))

    def _ended(self, piece: int, task: asyncio.Task[None]) -> None:
        del self._work[piece]
        if task.cancelled():
            self._stream.send(Freed(piece=piece))
        elif isinstance(error := task.exception(), HandoverError | IndexError):
            self._stream.send(Unable(piece=piece, error=str(error)))
        elif error is not None:
            log.error("a piece for %s was not packed", self._hello.incarnation, exc_info=error)
            self._stream.send(Unable(piece=piece, error=f"{type(error).__name__}: {error}"))

    async def _pack(self, asked: Pack) -> None:
        """Pack a piece, and keep it until we are cancelled."""
        helper = self._helper
        async with helper.slots.slot() as slot:
            runs = into_slot(read_asked(asked.runs, helper.slots.slot_bytes), slot)
            await in_thread(helper.threads, self._copy, runs)
            self._stream.send(Packed(piece=asked.piece, offset=slot))
            with helper.serving.needed():
                await asyncio.get_running_loop().create_future()

    async def _push(self, asked: Push) -> None:
        helper = self._helper
        async with helper.slots.slot() as slot:
            pieces = read_asked(asked.runs, helper.slots.slot_bytes)
            num_bytes = int(pieces[:, 1].sum())
            self._check_target(asked.to_offset, num_bytes)
            link = await self._connected()
            await in_thread(helper.threads, self._copy, into_slot(pieces, slot))
            await in_thread(helper.threads, link.write, np.array([[slot, asked.to_offset, num_bytes]], np.int64))
        self._stream.send(Pushed(piece=asked.piece))

    def _copy(self, runs: Runs) -> None:
        pool = self._helper.pool
        copy_within(pool.memory, runs, source_bytes=pool.region.sink_offset)  # blocks, and the pattern behind them

    def _check_target(self, offset: int, num_bytes: int) -> None:
        """
        :raises HandoverError: when it is not in its staging buffer. Into its blocks nobody writes but itself.
        """
        region = self._hello.region
        if not region.staging_offset <= offset <= offset + num_bytes <= region.num_bytes:
            raise HandoverError(f"{num_bytes} bytes at {offset} are not in the staging buffer")

    async def _connected(self) -> Link:
        if self._link is None:
            self._link = asyncio.create_task(self._connect())
        return await asyncio.shield(self._link)

    async def _connect(self) -> Link:
        for transport in self._helper.transports:
            theirs = next((m for m in self._hello.memory if isinstance(m, transport.memory_type)), None)
            if transport.can_write and theirs is not None:
                return await in_thread(self._helper.threads, transport.connect, theirs)
        raise HandoverError("no transport of both can write")

    async def _end(self) -> None:
        """Stop what waits, wait for what runs, and let go of its memory."""
        for task in self._work.values():
            task.cancel()
        if self._work:
            await asyncio.wait(list(self._work.values()))
        if self._link is not None:
            await asyncio.wait([self._link])
            if not self._link.exception():
                await in_thread(self._helper.threads, self._link.result().close)
