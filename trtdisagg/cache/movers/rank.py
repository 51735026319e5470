"""The mover of one rank: its links to the ranks of other servers, and the reads over them.

    meet     which of their ranks hold anything of ours (`shares`) -> a link to each, measured (`links`)
    fetch    blocks -> runs for each of their ranks (`planning`) -> each link takes the way that is fastest for them
    forget   aborts what runs, waits for it, closes the links
    helper   packs for ranks of others, and writes into their staging buffers

It lives in the process that has the pool, and knows no leases and no requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.helper import Helper
from trtdisagg.cache.movers.links import RankLink, Span
from trtdisagg.cache.movers.means import Means
from trtdisagg.cache.movers.packer import Sending
from trtdisagg.cache.movers.serving import Serving
from trtdisagg.cache.movers.staging import halves
from trtdisagg.cache.planning import Planner
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.shares import ranks_to_meet
from trtdisagg.cache.transports import Transport
from trtdisagg.cache.waiting import all_of, in_thread, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.helping import RankHello
from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.peers import Met, Moved, Part, PeerRanks
from trtdisagg.protocol.spec import TransferSpec

log = logging.getLogger(__name__)

NUM_COPY_THREADS = 2
"""Copies at once: one does not fill a memory bus, and more only share it."""
NUM_RUNS_AT_ONCE = 10_000
"""So many are planned in the event loop: asking a thread takes as long."""
WARM_BYTES = 128 << 20
"""How far ahead of the blocks that were used pages are touched."""


class Neighbours(NamedTuple):
    """The ranks of a peer that hold anything of ours."""

    planner: Planner
    links: dict[int, RankLink]
    """By their rank."""


class RankMover:
    """See `mover.Mover`. `async with`, in the event loop of its process.

    :param layout: of our server.
    :param rank: ours.
    :param pool: ours, open until we are closed.
    :param transports: over our pool, in order of preference, open until we are closed.
    :param incarnation: of our server.
    :param host: where ranks of others reach us.
    :param secret: the cluster's.
    """

    def __init__(
        self,
        layout: KvLayout,
        rank: int,
        pool: KvPool,
        transports: Sequence[Transport],
        *,
        incarnation: str,
        spec: TransferSpec | None = None,
        host: str = "127.0.0.1",
        secret: bytes = b"",
    ) -> None:
        self._layout = layout
        self._rank = rank
        self._pool = pool
        self._transports = transports
        self._incarnation = incarnation
        self._spec = spec or TransferSpec()
        self._host = host
        self._port = 0
        self._secret = secret
        self._met: dict[str, Neighbours] = {}
        """By incarnation."""
        self._one_server = asyncio.Semaphore(1)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            threads = ThreadPoolExecutor(NUM_COPY_THREADS, "kv-copy")
            stack.callback(threads.shutdown)
            self._warming = ThreadPoolExecutor(1, "kv-warm", initializer=_give_way)
            stack.callback(self._warming.shutdown, cancel_futures=True)
            self._means = self._make_means(threads)
            stack.push_async_callback(self._means.end)
            stack.push_async_callback(self._forget_all)
            if (slots := halves(self._pool.region)) and any(t.can_write for t in self._transports):
                self._means.slots = slots[0]
                sending_threads = ThreadPoolExecutor(self._spec.send_concurrency, "kv-send")
                stack.callback(sending_threads.shutdown)
                sending = Sending(self._pool, slots[1], self._transports, self._means.serving, sending_threads)
                helper = Helper(sending, secret=self._secret)
                stack.push_async_callback(helper.close)
                self._port = await helper.open(self._host)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await wait_out(asyncio.ensure_future(self._stack.aclose()))

    async def describe(self) -> RankMemory:
        memory = [transport.describe() for transport in self._transports]
        return RankMemory(host=self._host, port=self._port, memory=memory)

    async def meet(self, peer: PeerRanks) -> Met:
        assert peer.incarnation not in self._met
        neighbours = Neighbours(Planner(self._layout, self._rank, peer.layout), {})
        self._met[peer.incarnation] = neighbours
        try:
            for rank in ranks_to_meet(self._layout, self._rank, peer.layout):
                neighbours.links[rank] = await self._connect(peer, rank)
            await in_thread(self._means.threads, self._pool.warm_up, WARM_BYTES)
            await in_thread(self._warming, self._pool.warm_up, WARM_BYTES)  # starts it, which takes milliseconds
        except BaseException:
            await wait_out(asyncio.ensure_future(self.forget(peer.incarnation)))
            raise
        links = neighbours.links.values()
        return Met(
            transport="+".join(sorted({link.transport for link in links})),
            direction="push" if any(link.usual_way == "push" for link in links) else "pull",
            gb_s=min(link.gb_s for link in links),
            latency_us=max(link.figures.latency_s for link in links) * 1e6,
        )

    async def fetch(self, part: Part) -> Moved:
        if self._spec.receive_concurrent:
            return await self._fetch(part)
        async with self._one_server:
            return await self._fetch(part)

    async def forget(self, incarnation: str) -> None:
        if (neighbours := self._met.pop(incarnation, None)) is None:
            return
        for link in neighbours.links.values():
            link.abort()
        await all_of([link.close() for link in neighbours.links.values()])

    def set_serving(self, is_serving: bool) -> None:
        self._means.serving.want(is_wanted=is_serving)

    async def _fetch(self, part: Part) -> Moved:
        if (neighbours := self._met.get(part.incarnation)) is None:
            raise HandoverError("the peer was forgotten")
        planned = await self._plan(neighbours.planner, part)
        runs = {rank: its_runs for rank, its_runs in planned.items() if len(its_runs)}
        timeout_s = part.timeout_ms / 1000
        at_once = asyncio.Semaphore(len(runs) if self._spec.receive_parallel else 1)

        async def fetch(rank: int) -> Span:
            async with at_once:
                return await neighbours.links[rank].fetch(runs[rank], timeout_s)

        spans = await all_of([fetch(rank) for rank in runs])
        self._warm_up_behind(part)
        return Moved(
            num_bytes=sum(int(its_runs[:, 2].sum()) for its_runs in runs.values()),
            num_descriptors=sum(map(len, runs.values())),
            seconds=max((s.ended for s in spans), default=0.0) - min((s.started for s in spans), default=0.0),
        )

    async def _plan(self, planner: Planner, part: Part) -> dict[int, Runs]:
        if planner.num_runs_at_most(part) <= NUM_RUNS_AT_ONCE:
            return planner.plan(part)
        return await in_thread(self._means.threads, planner.plan, part)

    def _warm_up_behind(self, part: Part) -> None:
        """Blocks are used for the first time in their order: touch the pages of the next ones. The request that has its
        KV now is computed meanwhile, so this takes only what is left of the cores."""
        used_bytes = (max(part.my_blocks, default=-1) + 1) * self._pool.block_bytes
        self._warming.submit(self._pool.warm_up, used_bytes + WARM_BYTES)

    def _make_means(self, threads: ThreadPoolExecutor) -> Means:
        return Means(
            pool=self._pool,
            transports=self._transports,
            threads=threads,
            serving=Serving(self._transports),
            slots=None,
            hello=RankHello(
                incarnation=self._incarnation,
                rank=self._rank,
                memory=[transport.describe() for transport in self._transports],
                region=self._pool.region,
                proof=b"",
            ),
            secret=self._secret,
            zero_copy=self._spec.zero_copy,
            turns=asyncio.Semaphore(NUM_COPY_THREADS),
            one_test=asyncio.Lock(),
        )

    async def _forget_all(self) -> None:
        await all_of([self.forget(incarnation) for incarnation in self._met])

    async def _connect(self, peer: PeerRanks, rank: int) -> RankLink:
        try:
            link = await RankLink.open(self._means, peer.ranks[rank])
        except HandoverError as e:
            raise HandoverError(f"rank {self._rank} here, rank {rank} there: {e.message}") from e
        log.info("KV of %s (%s), rank %d, comes by %s", peer.server, peer.incarnation, rank, link)
        return link


def _give_way() -> None:
    """Let the others of this machine compute before this thread."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
