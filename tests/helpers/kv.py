"""Two servers' halves that move KV: small pools with known content, and a transport under the test's control."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import torch

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transports import Link, Transport
from trtdisagg.cache.transports.local import LocalTransport
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvShape, Ticket
from trtdisagg.protocol.peers import LocalMemory, Memory, Region

SHAPE = KvShape(model="m", dtype="float32", num_layers=2, num_kv_heads=2, head_dim=8, tokens_per_block=4)
NUM_BLOCKS = 32


def fill(pool: KvPool, seed: int) -> torch.Tensor:
    """Random content, the same for the same seed in any process."""
    values = torch.randn(pool.tensor.shape, generator=torch.Generator().manual_seed(seed))
    pool.tensor.copy_(values)
    return values


class Releases:
    """Counts how often each hold was released, and lets one wait for it."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def callback(self, request_id: int) -> Any:
        def released() -> None:
            self.counts[request_id] = self.counts.get(request_id, 0) + 1
            self._loop.call_soon_threadsafe(self._changed.set)

        return released

    async def wait(self, request_id: int) -> None:
        async with asyncio.timeout(5):
            while request_id not in self.counts:
                self._changed.clear()
                await self._changed.wait()


class Server:
    """One server's pool, transports and transceiver."""

    def __init__(self, transceiver: Transceiver, pool: KvPool, shape: KvShape) -> None:
        self.transceiver = transceiver
        self.pool = pool
        self.shape = shape
        self.releases = Releases()

    def hold(self, request_id: int, blocks: list[int], num_tokens: int | None = None) -> Ticket:
        if num_tokens is None:
            num_tokens = len(blocks) * self.shape.tokens_per_block
        return self.transceiver.hold(request_id, blocks, num_tokens, self.releases.callback(request_id))


@asynccontextmanager
async def server(
    name: str,
    *,
    transports: Sequence[Transport] | None = None,
    shape: KvShape = SHAPE,
    seed: int | None = None,
    **settings: Any,
) -> AsyncIterator[Server]:
    """A server with an open pool and, unless others are given, the local transport."""
    settings = {"lease_ms": 30_000, "transfer_timeout_ms": 10_000, "incarnation": f"{name}#1", **settings}
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(KvPool(shape, NUM_BLOCKS))
        if seed is not None:
            fill(pool, seed)
        used = [LocalTransport(pool)] if transports is None else transports
        transceiver = Transceiver(server=name, shape=shape, transports=used, **settings)
        yield Server(await stack.enter_async_context(transceiver), pool, shape)


class GatedLink:
    """Reads nothing, and takes as long as the test wants."""

    def __init__(self, transport: GatedTransport) -> None:
        self._transport = transport

    def read(self, runs: Runs) -> None:
        transport = self._transport
        transport.has_begun.set()
        assert transport.may_end.wait(10)
        transport.num_reads += 1
        if transport.read_error:
            raise HandoverError(transport.read_error)

    def write(self, runs: Runs) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        self._transport.num_aborts += 1

    def close(self) -> None:
        self._transport.num_closes += 1


class GatedTransport:
    """A transport whose connections and reads do what the test says."""

    memory_type = LocalMemory
    can_write = False

    def __init__(self, *, connect_error: str | None = None) -> None:
        self.connect_error = connect_error
        self.read_error: str | None = None
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.num_reads = self.num_aborts = self.num_closes = 0
        self.serving: list[bool] = []

    def describe(self) -> Memory:
        return LocalMemory(pid=0, fd=0, region=Region(pool_bytes=sys.maxsize), nonce=b"")

    def connect(self, memory: Memory) -> Link:
        if self.connect_error:
            raise HandoverError(self.connect_error)
        return GatedLink(self)

    def set_serving(self, is_serving: bool) -> None:
        if self.serving[-1:] != [is_serving]:
            self.serving.append(is_serving)

    def close(self) -> None:
        pass

    async def begun(self) -> None:
        """Wait until a read runs."""
        assert await asyncio.to_thread(self.has_begun.wait, 5)
