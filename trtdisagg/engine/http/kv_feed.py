"""`GET /kv_events`: what can be found in this server's blocks, for somebody who keeps count (protocol/kv_events.py).

engine's thread -> Feed -> one task a listener -> its socket. A listener that is too slow is cut off, not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import msgspec
from aiohttp import web

from trtdisagg.engine.http.running import Engine
from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.frames import frame
from trtdisagg.protocol.kv_events import KvChange, KvSnapshot
from trtdisagg.protocol.spec import EngineSpec

Changes = list[tuple[bytes, bytes]]
"""Hashes stored and removed, in order."""

HEARTBEAT_S = 1.0
SNAPSHOT_TIMEOUT_S = 30.0
"""The engine makes it between two steps, and a step may be long."""
MAX_WAITING_BYTES = 1 << 20
"""Of changes that a listener has not taken: sixty thousand blocks."""

_CHANGE_BYTES = 64
"""About what a change takes beside its hashes."""


class Feed:
    """What one listener is to be sent.

    :param cut_off: called when more waits than there is room for; nothing is kept from then on.
    """

    def __init__(self, cut_off: Callable[[], None], max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._cut_off = cut_off
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: Changes = []
        self._num_bytes = 0
        self._news = asyncio.Event()
        self._is_cut_off = False

    def put(self, stored: bytes, removed: bytes) -> None:
        """From the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._add, stored, removed)

    async def take(self) -> Changes:
        """Wait until there is something, and take all."""
        await self._news.wait()
        self._news.clear()
        taken, self._waiting, self._num_bytes = self._waiting, [], 0
        return taken

    def _add(self, stored: bytes, removed: bytes) -> None:
        num_bytes = self._num_bytes + _CHANGE_BYTES + len(stored) + len(removed)
        if self._is_cut_off:
            return
        if self._waiting and num_bytes > self._max_waiting_bytes:
            self._is_cut_off = True
            self._waiting = []
            self._cut_off()
            return
        self._num_bytes = num_bytes
        self._waiting.append((stored, removed))
        self._news.set()


class KvFeeds:
    """All who listen to one server."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._transports: set[asyncio.Transport] = set()

    async def answer(self, engine: Engine, request: web.Request) -> web.StreamResponse:
        """Say what can be found, and then what changes, until the listener leaves.

        :raises UnavailableError: when the engine does not come to it.
        """
        transport = request.transport
        assert transport is not None
        feed = Feed(transport.abort)
        with _listening(engine, feed), self._counted(transport):
            [(hashes, _), *changes] = await _first(feed)
            response = web.StreamResponse(headers={"Content-Type": "application/msgpack"})
            with contextlib.suppress(ConnectionError):  # it has left, or was cut off
                await response.prepare(request)
                await response.write(_frame(self._snapshot(engine, hashes)))
                await _pass_on(feed, changes, response)
        return response

    async def end(self, _: web.Application) -> None:
        """The server ends, and none of these would by itself."""
        for transport in self._transports:
            transport.abort()

    def _snapshot(self, engine: Engine, hashes: bytes) -> KvSnapshot:
        return KvSnapshot(
            incarnation=self._spec.incarnation,
            tokens_per_block=self._spec.tokens_per_block,
            root_model=engine.root_model,
            sequence=0,
            hashes=hashes,
        )

    @contextlib.contextmanager
    def _counted(self, transport: asyncio.Transport) -> Iterator[None]:
        self._transports.add(transport)
        try:
            yield
        finally:
            self._transports.discard(transport)


@contextlib.contextmanager
def _listening(engine: Engine, feed: Feed) -> Iterator[None]:
    engine.listen(feed.put)
    try:
        yield
    finally:
        engine.unlisten(feed.put)


async def _pass_on(feed: Feed, changes: Changes, response: web.StreamResponse) -> None:
    """
    :raises ConnectionError: in the end.
    """
    sequence = 0
    while True:
        frames = []
        for stored, removed in changes:
            sequence += 1
            frames.append(_frame(KvChange(sequence=sequence, stored=stored, removed=removed)))
        if frames:
            await response.write(b"".join(frames))
        changes = await _next(feed)


async def _next(feed: Feed) -> Changes:
    """What has changed; nothing, now and then."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await feed.take()
    except TimeoutError:
        return [(b"", b"")]


async def _first(feed: Feed) -> Changes:
    try:
        async with asyncio.timeout(SNAPSHOT_TIMEOUT_S):
            return await feed.take()
    except TimeoutError:
        raise UnavailableError(f"The engine said nothing of its blocks for {SNAPSHOT_TIMEOUT_S:g} s") from None


def _frame(message: KvSnapshot | KvChange) -> bytes:
    return frame(msgspec.msgpack.encode(message))
