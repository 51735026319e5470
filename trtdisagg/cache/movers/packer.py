"""What is done for one rank of another server that wants help: packs for it, and writes into its staging buffer.

    for each piece: a slot | packed by a thread | read by the other, or written to it | free

It ends when its last write has ended. What the other said it would read is kept until it is done with it, or its
connection ends, or it is silent: whoever comes back after that is not told `Freed`, and throws away what it read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from trtdisagg.cache.copying import copy_within
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.pieces import into_slot, read_asked
from trtdisagg.cache.movers.serving import Serving
from trtdisagg.cache.movers.staging import Slots
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.streams import KEEPALIVE_S, SILENT_BEATS, PeerLostError, PeerStream
from trtdisagg.cache.transports import Link, Transport
from trtdisagg.cache.waiting import in_thread, wait_out
from trtdisagg.errors import HandoverError
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
from trtdisagg.protocol.peers import Ping

log = logging.getLogger(__name__)


class Sending(NamedTuple):
    """What a rank sends with."""

    pool: KvPool
    slots: Slots
    transports: Sequence[Transport]
    """Over our pool; the first that can write and that the other has too writes to it."""
    serving: Serving
    threads: Executor


class Packer:
    """Of one rank that is helped."""

    def __init__(self, sending: Sending, stream: PeerStream[FromFetcher], hello: RankHello) -> None:
        self._sending = sending
        self._stream = stream
        self._hello = hello
        self._work: dict[int, asyncio.Task[None]] = {}
        """By piece: what is packed or written, and what waits to be read."""
        self._link: asyncio.Task[Link] | None = None
        """To its staging buffer, from the first push on."""
        self._is_ending = False

    async def run(self) -> None:
        """Do what is asked until the connection ends.

        :raises HandoverError: with the reason.
        """
        self._stream.send(RankWelcome(slot_bytes=self._sending.slots.slot_bytes))
        try:
            with self._sending.serving.needed():  # it measures the link now
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
        error = None if task.cancelled() else task.exception()
        if self._is_ending:  # nothing is said of what we cut short: `Freed` would say that it was kept until `Done`
            return
        if task.cancelled():
            self._stream.send(Freed(piece=piece))
        elif isinstance(error, HandoverError | IndexError):
            self._stream.send(Unable(piece=piece, error=str(error)))
        elif error is not None:
            log.error("a piece for %s was not packed", self._hello.incarnation, exc_info=error)
            self._stream.send(Unable(piece=piece, error=f"{type(error).__name__}: {error}"))

    async def _pack(self, asked: Pack) -> None:
        """Pack a piece, and keep it until we are cancelled."""
        sending = self._sending
        async with sending.slots.slot() as slot:
            runs = into_slot(read_asked(asked.runs, sending.slots.slot_bytes), slot)
            await in_thread(sending.threads, self._copy, runs)
            self._stream.send(Packed(piece=asked.piece, offset=slot))
            with sending.serving.needed():
                await asyncio.get_running_loop().create_future()

    async def _push(self, asked: Push) -> None:
        sending = self._sending
        async with sending.slots.slot() as slot:
            pieces = read_asked(asked.runs, sending.slots.slot_bytes)
            num_bytes = int(pieces[:, 1].sum())
            self._check_target(asked.to_offset, num_bytes)
            link = await self._connected()
            await in_thread(sending.threads, self._copy, into_slot(pieces, slot))
            await in_thread(sending.threads, link.write, np.array([[slot, asked.to_offset, num_bytes]], np.int64))
        self._stream.send(Pushed(piece=asked.piece))

    def _copy(self, runs: Runs) -> None:
        pool = self._sending.pool
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
        for transport in self._sending.transports:
            theirs = next((m for m in self._hello.memory if isinstance(m, transport.memory_type)), None)
            if transport.can_write and theirs is not None:
                return await in_thread(self._sending.threads, transport.connect, theirs)
        raise HandoverError("no transport of both can write")

    async def _end(self) -> None:
        """Stop what waits, wait for what runs, and let go of its memory."""
        self._is_ending = True
        if self._link is not None and self._link.done() and not self._link.exception():
            self._link.result().abort()  # lest a write to who answers no more keep the thread that others wait for
        for task in self._work.values():
            task.cancel()
        if self._work:
            await asyncio.wait(list(self._work.values()))
        if self._link is not None:
            await asyncio.wait([self._link])
            if not self._link.exception():
                await in_thread(self._sending.threads, self._link.result().close)
