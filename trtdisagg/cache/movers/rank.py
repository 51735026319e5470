"""The mover of one rank: its links to the ranks of other servers, and the reads over them.

    meet     which of their ranks hold anything of ours (`layout`) -> a link to each (`links`)
    fetch    blocks -> runs for each of their ranks -> reads over the links, at once
    forget   aborts what runs, waits for it, closes the links

It lives in the process that has the pool, and knows no leases and no requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

from trtdisagg.cache.layout import plan_runs
from trtdisagg.cache.movers.links import RankLink, Workers
from trtdisagg.cache.shares import ranks_to_meet
from trtdisagg.cache.transports import Transport
from trtdisagg.cache.waiting import all_of, in_thread, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.peers import Met, Moved, Part, PeerRanks, RankMemory

log = logging.getLogger(__name__)

NUM_COPY_THREADS = 2
"""Copies at once: one does not fill a memory bus, and more only share it."""


class Neighbours(NamedTuple):
    """The ranks of a peer that hold anything of ours."""

    layout: KvLayout
    links: dict[int, RankLink]
    """By their rank."""


class RankMover:
    """See `mover.Mover`. `async with`, in the event loop of its process.

    :param layout: of our server.
    :param rank: ours.
    :param transports: over our pool, in order of preference, open until we are closed.
    """

    def __init__(self, layout: KvLayout, rank: int, transports: Sequence[Transport]) -> None:
        self._layout = layout
        self._rank = rank
        self._transports = transports
        self._met: dict[str, Neighbours] = {}
        """By incarnation."""

    async def __aenter__(self) -> Self:
        self._threads = ThreadPoolExecutor(NUM_COPY_THREADS, "kv-copy")
        self._workers = Workers(self._threads, asyncio.Semaphore(NUM_COPY_THREADS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await all_of([self.forget(incarnation) for incarnation in self._met])
        finally:
            self._threads.shutdown()

    async def describe(self) -> RankMemory:
        return RankMemory(host="", port=0, memory=[transport.describe() for transport in self._transports])

    async def meet(self, peer: PeerRanks) -> Met:
        assert peer.incarnation not in self._met
        neighbours = Neighbours(peer.layout, {})
        self._met[peer.incarnation] = neighbours
        try:
            for rank in ranks_to_meet(self._layout, self._rank, peer.layout):
                neighbours.links[rank] = await self._connect(peer, rank)
        except BaseException:
            await wait_out(asyncio.ensure_future(self.forget(peer.incarnation)))
            raise
        links = neighbours.links.values()
        return Met(
            transport="+".join(sorted({link.transport for link in links})),
            direction="pull",
            gb_s=0.0,
            latency_us=max(link.latency_us for link in links),
        )

    async def fetch(self, part: Part) -> Moved:
        if (neighbours := self._met.get(part.incarnation)) is None:
            raise HandoverError("the peer was forgotten")
        planned = await in_thread(self._threads, lambda: plan_runs(self._layout, self._rank, neighbours.layout, part))
        runs = {rank: its_runs for rank, its_runs in planned.items() if len(its_runs)}
        timeout_s = part.timeout_ms / 1000
        spans = await all_of([neighbours.links[rank].read(its_runs, timeout_s) for rank, its_runs in runs.items()])
        return Moved(
            num_bytes=sum(int(its_runs[:, 2].sum()) for its_runs in runs.values()),
            num_descriptors=sum(map(len, runs.values())),
            seconds=max((s.ended for s in spans), default=0.0) - min((s.started for s in spans), default=0.0),
        )

    async def forget(self, incarnation: str) -> None:
        if (neighbours := self._met.pop(incarnation, None)) is None:
            return
        for link in neighbours.links.values():
            link.abort()
        await all_of([link.close() for link in neighbours.links.values()])

    def set_serving(self, is_serving: bool) -> None:
        for transport in self._transports:
            transport.set_serving(is_serving)

    async def _connect(self, peer: PeerRanks, rank: int) -> RankLink:
        try:
            link = await RankLink.open(self._transports, peer.ranks[rank], self._workers)
        except HandoverError as e:
            raise HandoverError(f"rank {self._rank} here, rank {rank} there: {e.message}") from e
        log.info(
            "KV of %s (%s), rank %d, comes by %s",
            *(peer.server, peer.incarnation, rank, "; ".join([link.transport, *link.others])),
        )
        return link
