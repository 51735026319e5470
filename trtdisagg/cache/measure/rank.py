"""`python -m trtdisagg.cache.measure.rank`: one rank of a server, without an engine.

Takes `orders` on stdin and answers on stdout, and nothing else there; ends with stdin.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack

import msgspec

from trtdisagg.cache.layout import rank_shape
from trtdisagg.cache.measure.bare import PlainCopy, Work, in_one_piece, open_bare
from trtdisagg.cache.measure.content import Content
from trtdisagg.cache.measure.orders import (
    Answer,
    Check,
    Checked,
    Done,
    Meet,
    Move,
    Offered,
    OpenMover,
    OpenPool,
    Order,
    Prepare,
    Reached,
    Refused,
    Timed,
)
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.movers.staging import staging_bytes
from trtdisagg.cache.planning import Planner
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.shares import ranks_to_meet
from trtdisagg.cache.transports import open_transports
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.bench_kv import Way
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.lines import own_stdout, write_line
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.peers import Part, PeerRanks
from trtdisagg.protocol.spec import TransferSpec

_ORDERS: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


class Rank:
    """What is open, from the inside out: pool, mover, prepared request; until `close`."""

    def __init__(self) -> None:
        self._pools = ExitStack()
        self._movers = AsyncExitStack()

    async def close(self) -> None:
        await self._movers.aclose()
        self._pools.close()

    async def obey(self, order: Order) -> Answer:
        """
        :raises TrtdisaggError: when it cannot be done.
        """
        match order:
            case OpenPool(layout=layout, rank=rank, blocks=blocks):
                await self._open_pool(layout, rank)
                self._content.write(blocks)
            case OpenMover():
                return await self._open_mover(order)
            case Meet(peer=peer):
                return await self._meet(peer)
            case Prepare(part=part):
                self._prepare(part)
            case Move(way=way):
                return await self._move(way)
            case Check():
                wrong = self._content.wrong(self._part.my_blocks)
                self._content.wipe()
                return Checked(wrong=wrong)
        return Done()

    async def _open_pool(self, layout: KvLayout, rank: int) -> None:
        await self.close()
        self._layout, self._rank = layout, rank
        shape = rank_shape(layout, rank)
        buffer_bytes = staging_bytes(TransferSpec(transports=["nixl"]), shape, layout.num_blocks)
        self._pool = self._pools.enter_context(KvPool(shape, layout.num_blocks, staging_bytes=buffer_bytes))
        self._content = Content(layout, rank, self._pool)
        self._content.wipe()
        self._copy = PlainCopy(self._pool)

    async def _open_mover(self, order: OpenMover) -> Offered:
        await self._movers.aclose()
        self._transport, self._incarnation = order.transport, order.incarnation
        name = f"{order.incarnation}/{self._rank}"
        opened = open_transports([order.transport], self._pool, incarnation=name, one_host=True)
        transports = self._movers.enter_context(opened)
        mover = RankMover(self._layout, self._rank, self._pool, transports, incarnation=order.incarnation)
        self._mover = await self._movers.enter_async_context(mover)
        self._mover.set_serving(True)
        return Offered(memory=await self._mover.describe())

    async def _meet(self, peer: PeerRanks) -> Reached:
        self._peer = peer
        met = await self._mover.meet(peer)
        agent = f"{self._incarnation}/{self._rank}/bare"
        self._bare = self._movers.enter_context(open_bare(self._transport, self._pool, agent))
        for rank in ranks_to_meet(self._layout, self._rank, peer.layout):
            self._bare.connect(rank, peer.ranks[rank])
        return Reached(met=met)

    def _prepare(self, part: Part) -> None:
        self._part = part
        planned = Planner(self._layout, self._rank, self._peer.layout).plan(part)
        self._num_bytes = sum(int(runs[:, 2].sum()) for runs in planned.values())
        self._num_descriptors = sum(map(len, planned.values()))
        self._works: dict[Way, Work] = {
            "copy": self._copy.prepare(self._num_bytes),
            "piece": self._bare.prepare(in_one_piece(planned)),
            "descriptors": self._bare.prepare(planned),
        }

    async def _move(self, way: Way) -> Timed:
        begun, cpu_s, num_descriptors = time.monotonic(), time.process_time(), self._num_descriptors
        if way == "fetch":
            num_descriptors = (await self._mover.fetch(self._part)).num_descriptors
        else:
            self._works[way]()
        return Timed(
            begun=begun,
            ended=time.monotonic(),
            cpu_s=time.process_time() - cpu_s,
            num_bytes=self._num_bytes,
            num_descriptors=num_descriptors,
        )


async def run() -> None:
    """Obey until stdin ends."""
    loop, rank = asyncio.get_running_loop(), Rank()
    with own_stdout() as out:
        try:
            while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
                try:
                    answer = await rank.obey(_ORDERS.decode(line))
                except TrtdisaggError as e:
                    answer = Refused(message=e.message)
                write_line(out, answer)
        finally:
            await rank.close()


if __name__ == "__main__":
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    asyncio.run(run())
