"""What the links of a rank share: its memory, its transports, threads, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any

import msgspec

from trtdisagg.cache.movers.serving import Serving
from trtdisagg.cache.movers.staging import Slots
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import Transport
from trtdisagg.cache.waiting import wait_out
from trtdisagg.protocol.helping import RankHello


class Means(msgspec.Struct, kw_only=True):
    """Of one rank, in its event loop."""

    pool: KvPool
    transports: Sequence[Transport]
    """In order of preference."""
    threads: Executor
    """Where what blocks runs."""
    serving: Serving
    slots: Slots | None
    """To receive with; None: nothing is staged."""
    hello: RankHello
    """Who we are; the proof is filled in later."""
    secret: bytes
    zero_copy: bool
    """Never stage."""
    turns: asyncio.Semaphore
    """Fetches that move bytes at once."""
    one_test: asyncio.Lock
    """There is one sink."""
    running: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    """What outlives its link."""

    def keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def end(self) -> None:
        """End what still runs: then nobody hears any more what is written into the staging buffer."""
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await wait_out(asyncio.gather(*tasks, return_exceptions=True))
