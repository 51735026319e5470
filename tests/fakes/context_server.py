"""The context side of a handover as a process of its own, without an engine: a pool with known content, held blocks.

Says its tickets on stdout as one line of JSON, then each request id when it is released, then waits for the end of
stdin in its event loop, as an idle server does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AbstractContextManager

import msgspec
from helpers.kv import fill

from trtdisagg.cache.holds import Offer
from trtdisagg.cache.layout import rank_shape
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transports import Transport, open_transports
from trtdisagg.protocol.handover import KvLayout

NUM_BLOCKS = 96
LAYOUT = KvLayout(
    model="m", dtype="float32", num_layers=4, num_kv_heads=2, head_dim=64, tokens_per_block=32, num_blocks=NUM_BLOCKS
)
SHAPE = rank_shape(LAYOUT, 0)
SEED = 11
STAGING_BYTES = 1 << 20
"""Two slots of 256 KiB in each half: two blocks."""


def open_named(name: str, pool: KvPool, incarnation: str) -> AbstractContextManager[list[Transport]]:
    """`local`, `nixl`, or `nixl-far`: as if peers were on other hosts."""
    transport, _, far = name.partition("-")
    return open_transports([transport], pool, incarnation=incarnation, one_host=not far)


async def serve(transports: list[Transport], tables: list[list[int]]) -> None:
    async with (
        RankMover(LAYOUT, 0, transports[0].pool, transports, incarnation="context-0#1") as mover,
        Transceiver(
            server="context-0",
            incarnation="context-0#1",
            layout=LAYOUT,
            movers=[mover],
            lease_ms=30_000,
            transfer_timeout_ms=10_000,
        ) as transceiver,
    ):
        tickets = [
            transceiver.hold(Offer(i, blocks, len(blocks) * SHAPE.tokens_per_block, lambda i=i: print(i, flush=True)))
            for i, blocks in enumerate(tables, 1)
        ]
        print(msgspec.json.encode(tickets).decode(), flush=True)
        stdin = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        await stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport")
    parser.add_argument("tables", help="JSON: the block table of each request to hold")
    args = parser.parse_args()
    with (
        KvPool(SHAPE, NUM_BLOCKS, staging_bytes=STAGING_BYTES) as pool,
        open_named(args.transport, pool, "context-0#1") as transports,
    ):
        fill(pool, SEED)
        asyncio.run(serve(transports, msgspec.json.decode(args.tables)))


if __name__ == "__main__":
    main()
