"""Servers' halves that move KV, of any number of ranks in one process: small pools with known content, and a transport
under the test's control."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import torch

from trtdisagg.cache.holds import Offer
from trtdisagg.cache.layout import Runs, rank_shape
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.movers.remote import RemoteMover, serve_mover
from trtdisagg.cache.pool import KvPool, pattern
from trtdisagg.cache.shares import heads_of, holders, layers_of
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transports import Link, Transport
from trtdisagg.cache.transports.local import LocalTransport
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.memory import LocalMemory, Memory, Region
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.peers import PeerRanks
from trtdisagg.protocol.spec import PeerAddress, TransferSpec

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

NUM_BLOCKS = 32
LAYOUT = KvLayout(
    model="m", dtype="float32", num_layers=2, num_kv_heads=2, head_dim=8, tokens_per_block=4, num_blocks=NUM_BLOCKS
)
SHAPE = rank_shape(LAYOUT, 0)
SOMEBODY = PeerRanks(server="x", incarnation="x", layout=LAYOUT, ranks=[])


def divided(layout: KvLayout = LAYOUT, *, pp: Sequence[int] = (), **parallel: Any) -> KvLayout:
    """A layout of several ranks."""
    return msgspec.structs.replace(layout, parallel=Parallel(pp_partition=list(pp), **parallel))


def random_cache(layout: KvLayout, seed: int) -> torch.Tensor:
    """[block, layer, head, k|v, token, value] of a whole model, the same for the same seed in any process."""
    size = (
        *(layout.num_blocks, layout.num_layers, layout.num_kv_heads),
        *(2, layout.tokens_per_block, layout.head_dim),
    )
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def fill(pool: KvPool, seed: int) -> torch.Tensor:
    """Random content, the same for the same seed in any process: of a server of one rank, `random_cache`."""
    values = torch.randn(pool.tensor.shape, generator=torch.Generator().manual_seed(seed))
    pool.tensor.copy_(values)
    return values


def fill_share(pool: KvPool, layout: KvLayout, rank: int, seed: int) -> None:
    """Write the rank's share of `random_cache`."""
    layers, heads = layers_of(layout, rank), heads_of(layout, rank)
    cache = random_cache(layout, seed)
    pool.tensor.copy_(cache[:, layers.start : layers.stop, heads.start : heads.stop])


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
    """One server's pools, movers and transceiver."""

    movers: list[RankMover]

    def __init__(self, transceiver: Transceiver, pools: list[KvPool], layout: KvLayout, incarnation: str) -> None:
        self.transceiver = transceiver
        self.pools = pools
        self.layout = layout
        self.incarnation = incarnation
        self.releases = Releases()

    @property
    def pool(self) -> KvPool:
        """Of a server of one rank."""
        [pool] = self.pools
        return pool

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(
            server=self.incarnation.partition("#")[0],
            incarnation=self.incarnation,
            host=self.transceiver.host,
            port=self.transceiver.port,
        )

    def hold(self, request_id: int, blocks: list[int], num_tokens: int | None = None, **more: Any) -> Ticket:
        if num_tokens is None:
            num_tokens = len(blocks) * self.layout.tokens_per_block
        return self.transceiver.hold(Offer(request_id, blocks, num_tokens, self.releases.callback(request_id), **more))

    def read(self, blocks: list[int], num_tokens: int, dp_rank: int = 0) -> torch.Tensor:
        """[layer, head, k|v, token, value]: what the ranks have in these blocks, all copies of a head the same."""
        of = self.layout
        cache = torch.full((of.num_layers, of.num_kv_heads, 2, num_tokens, of.head_dim), torch.nan)
        for rank in holders(of, dp_rank):
            layers, heads = layers_of(of, rank), heads_of(of, rank)
            share = self.pools[rank].tensor[blocks].permute(1, 2, 3, 0, 4, 5).flatten(3, 4)[:, :, :, :num_tokens]
            place = cache[layers.start : layers.stop, heads.start : heads.stop]
            assert place.isnan().all() or torch.equal(place, share)
            place.copy_(share)
        assert not cache.isnan().any()
        return cache


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Stream, Stream]]:
    """The two ends of one connection."""
    here, there = socket.socketpair()
    ends = [await asyncio.open_unix_connection(sock=sock) for sock in (here, there)]
    try:
        yield ends[0], ends[1]
    finally:
        for _, writer in ends:
            writer.close()


@asynccontextmanager
async def far_away(mover: Mover, name: str) -> AsyncIterator[Mover]:
    """A mover as rank 0 sees it when it is in another process."""
    async with connected() as (here, there):
        remote = RemoteMover(name, *here)
        running = asyncio.create_task(remote.run())
        serving = asyncio.create_task(serve_mover(*there, mover))
        try:
            yield remote
        finally:
            running.cancel()
            await asyncio.wait([running, serving], timeout=5)
            assert serving.done()
            serving.result()


@asynccontextmanager
async def server(
    name: str,
    *,
    transports: Callable[[KvPool], list[Transport]] | Sequence[Transport] | Sequence[Sequence[Transport]] | None = None,
    layout: KvLayout = LAYOUT,
    seed: int | None = None,
    are_remote: bool = False,
    spec: TransferSpec | None = None,
    staging_bytes: int = 0,
    **settings: Any,
) -> AsyncIterator[Server]:
    """A server with open pools and, unless others are given, the local transport.

    :param transports: of all ranks, or of each, or what makes those of a pool.
    :param are_remote: all ranks but the first are behind a connection.
    """
    settings = {"lease_ms": 30_000, "transfer_timeout_ms": 10_000, "incarnation": f"{name}#1", **settings}
    async with AsyncExitStack() as stack:
        pools, movers, own_movers = [], [], []
        secret = settings.get("secret", b"")
        for rank in range(layout.parallel.num_ranks):
            pool = KvPool(rank_shape(layout, rank), layout.num_blocks, staging_bytes=staging_bytes)
            stack.enter_context(pool)
            if seed is not None:
                fill_share(pool, layout, rank, seed)
            used: Any = [LocalTransport(pool)] if transports is None else transports
            if callable(used):
                used = used(pool)
            if isinstance(used[0], list):
                used = used[rank]
            for transport in used:
                if isinstance(transport, GatedTransport):
                    transport.pools.append(pool)
            moving = RankMover(layout, rank, pool, used, incarnation=settings["incarnation"], spec=spec, secret=secret)
            mover: Mover = await stack.enter_async_context(moving)
            own_movers.append(moving)
            if are_remote and rank > 0:
                mover = await stack.enter_async_context(far_away(mover, f"rank {rank}"))
            movers.append(mover)
            pools.append(pool)
        transceiver = Transceiver(server=name, layout=layout, movers=movers, **settings)
        opened = Server(await stack.enter_async_context(transceiver), pools, layout, settings["incarnation"])
        opened.movers = own_movers
        yield opened


_FAKE_BYTES = 1 << 50


class GatedLink:
    """Reads nothing, and takes as long as the test wants, or until it is aborted."""

    def __init__(self, transport: GatedTransport) -> None:
        self._transport = transport
        self._is_aborted = threading.Event()

    def read(self, runs: Runs) -> None:
        transport = self._transport
        if runs[0, 1] >= _FAKE_BYTES:
            transport.pass_test(runs)
            return
        transport.has_begun.set()
        assert transport.may_end.wait(10)
        transport.num_reads += 1
        if self._is_aborted.is_set():
            raise HandoverError("the read was aborted")
        if transport.read_error:
            raise HandoverError(transport.read_error)

    def write(self, runs: Runs) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        self._is_aborted.set()
        self._transport.num_aborts += 1
        self._transport.was_aborted.set()

    def close(self) -> None:
        self._transport.num_closes += 1


class GatedTransport:
    """A transport whose connections and reads do what the test says."""

    memory_type = LocalMemory
    can_write = False

    def __init__(self, *, connect_error: str | None = None) -> None:
        self.connect_error = connect_error
        self.read_error: str | None = None
        self.is_connecting = threading.Event()
        self.may_connect = threading.Event()
        self.may_connect.set()
        self.has_begun = threading.Event()
        self.may_end = threading.Event()
        self.was_aborted = threading.Event()
        self.num_reads = self.num_aborts = self.num_closes = 0
        self.pools: list[KvPool] = []
        """Of those who use it."""
        self.serving: list[bool] = []

    def describe(self) -> Memory:
        return LocalMemory(pid=0, fd=0, region=Region(pool_bytes=_FAKE_BYTES), nonce=b"")

    def connect(self, memory: Memory) -> Link:
        self.is_connecting.set()
        assert self.may_connect.wait(10)
        if self.connect_error:
            raise HandoverError(self.connect_error)
        return GatedLink(self)

    def pass_test(self, runs: Runs) -> None:
        """Have a test block arrive."""
        for pool in self.pools:
            if len(runs) == 1 and runs[0, 0] == (sink := pool.region.sink_offset):
                pool.memory[sink : sink + runs[0, 2]] = pattern()[: runs[0, 2]]

    def set_serving(self, is_serving: bool) -> None:
        if self.serving[-1:] != [is_serving]:
            self.serving.append(is_serving)

    def close(self) -> None:
        pass

    async def connecting(self) -> None:
        """Wait until somebody connects."""
        assert await asyncio.to_thread(self.is_connecting.wait, 5)

    async def begun(self) -> None:
        """Wait until a read runs."""
        assert await asyncio.to_thread(self.has_begun.wait, 5)

    async def aborted(self) -> None:
        """Wait until a read was asked to end."""
        assert await asyncio.to_thread(self.was_aborted.wait, 5)
