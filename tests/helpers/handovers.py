"""Engines without a model that hand over through real transceivers and real memory, within one process."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
from fakes.pool_runner import PoolRunner
from fakes.runner import tokens_alone
from helpers.engine import make_limits, make_request
from helpers.kv import Server, server

from trtdisagg.engine.executor import Executor
from trtdisagg.engine.handover import TransceiverHandover
from trtdisagg.engine.request import Output, Request
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.stats import Stats

LONG_S = 30.0


class Engine:
    """One server: executor, transceiver, pools."""

    def __init__(self, kv: Server, executor: Executor, outputs: Outputs) -> None:
        self.kv = kv
        self.executor = executor
        self._outputs = outputs

    async def run(self, request: Request, cancel_after: int | None = None) -> list[Output]:
        """All outputs of a request.

        :param cancel_after: turns of the event loop, after which nobody wants it any more.
        """
        with self._outputs.of(request.id) as queue:
            self.executor.enqueue_request(request)
            if cancel_after is not None:
                for _ in range(cancel_after):
                    await asyncio.sleep(0)
                self.executor.cancel_request(request.id)
            outputs: list[Output] = []
            while not (outputs and outputs[-1].finish_reason):
                outputs.append(await asyncio.wait_for(queue.get(), LONG_S))
            return outputs

    def stats(self) -> Stats:
        return self.executor.stats()

    async def until_empty(self) -> None:
        """Wait until no block is in use."""
        async with asyncio.timeout(LONG_S):
            while self.stats().num_used_blocks or self.kv.transceiver.stats().num_held_blocks:
                await asyncio.sleep(0.005)

    def check_integrity(self) -> None:
        self.executor._core._lifecycle.check_integrity()


class Outputs:
    """From the engine's thread to those who wait in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues: dict[int, asyncio.Queue[Output]] = {}

    def deliver(self, outputs: list[Output]) -> None:
        self._loop.call_soon_threadsafe(self._put, outputs)

    def of(self, request_id: int) -> Any:
        return _Kept(self._queues, request_id)

    def _put(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.request_id in self._queues:
                self._queues[output.request_id].put_nowait(output)


class _Kept:
    def __init__(self, queues: dict[int, asyncio.Queue[Output]], key: int) -> None:
        self._queues, self._key = queues, key

    def __enter__(self) -> asyncio.Queue[Output]:
        queue = self._queues[self._key] = asyncio.Queue()
        return queue

    def __exit__(self, *_: object) -> None:
        del self._queues[self._key]


@asynccontextmanager
async def engine(name: str, layout: KvLayout, **settings: Any) -> AsyncIterator[Engine]:
    """A server that computes and hands over."""
    limits = make_limits(
        num_blocks=layout.num_blocks,
        tokens_per_block=layout.tokens_per_block,
        dp_size=layout.parallel.dp_size,
        enable_block_reuse=False,  # or little would be moved
    )
    async with server(name, layout=layout, **settings) as kv, TransceiverHandover(kv.transceiver) as handover:
        outputs = Outputs()
        runner = PoolRunner(layout, kv.pools)
        executor = Executor(runner=runner, limits=limits, handover=handover, deliver=outputs.deliver)
        executor.start()
        try:
            yield Engine(kv, executor, outputs)
        finally:
            await asyncio.to_thread(executor.shutdown)


class Resources(NamedTuple):
    """What a process has of the kernel."""

    num_fds: int
    num_threads: int
    num_pool_mappings: int

    @classmethod
    def now(cls) -> Resources:
        gc.collect()
        maps = Path("/proc/self/maps").read_text()
        return cls(len(os.listdir("/proc/self/fd")), threading.active_count(), maps.count("memfd:trtdisagg-kv"))


class HandoverWorld:
    """Requests that go from one engine to another, some of which somebody gives up on the way."""

    def __init__(self, context: Engine, generation: Engine, seed: int) -> None:
        self._context = context
        self._generation = generation
        self._random = Random(seed)
        self.num_cancelled = 0
        self._num_begun = 0

    async def hand_over_many(self, num_requests: int, num_at_once: int) -> None:
        end = self._num_begun + num_requests

        async def client() -> None:
            while self._num_begun < end:
                self._num_begun += 1
                await self.hand_over(self._num_begun)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(num_at_once):
                tasks.create_task(client())

    async def hand_over(self, request_id: int) -> None:
        """One request, from its first leg to its last; three in ten are given up at a random moment."""
        random = self._random
        given_up = random.choice(["context", "between", "generation"]) if random.random() < 0.3 else None
        self.num_cancelled += given_up is not None
        asked = make_request(request_id, random.randint(1, 14), random.randint(2, 6))
        [first] = await self._context_leg(asked, random.randrange(12) if given_up == "context" else None)
        if first.ticket is None:
            assert first.finish_reason == "cancelled"
            return
        if given_up == "context":  # too late: its ticket was on the way
            return
        if given_up == "between":
            self._give_back(first.ticket)
            return
        rest = _like(asked, type="generation_only", output_token_ids=first.new_token_ids, ticket=first.ticket)
        outputs = await self._generation.run(rest, random.randrange(40) if given_up == "generation" else None)
        tokens = [token for output in outputs for token in output.new_token_ids]
        expected = tokens_alone(rest, asked.sampling.max_tokens)
        assert tokens == expected[: len(tokens)]
        assert outputs[-1].finish_reason in ("length", "cancelled" if given_up else "length")

    async def _context_leg(self, asked: Request, cancel_after: int | None) -> list[Output]:
        context = _like(asked, type="context_only", reader=self._random.choice([None, "generation-0"]))
        return await self._context.run(context, cancel_after)

    def _give_back(self, ticket: Ticket) -> None:
        """By one of the two who may."""
        who = self._random.choice([self._context, self._generation])
        who.kv.transceiver.release(ticket)


def _like(request: Request, **fields: Any) -> Request:
    return msgspec.structs.replace(request, **fields)
