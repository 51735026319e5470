"""KV between two real processes, by each transport; and what happens when one of them is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
from fakes.context_server import LAYOUT, NUM_BLOCKS, SEED, SHAPE, STAGING_BYTES, open_named
from helpers.kv import fill, random_cache
from helpers.mpi import needs_mpi

from trtdisagg.cache.movers import links
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transports import Transport
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0


class Context:
    """A context server that runs."""

    def __init__(self, process: asyncio.subprocess.Process, tickets: list[Ticket]) -> None:
        self.process = process
        self.tickets = tickets

    async def released(self) -> int:
        """The next request id that it says it released."""
        assert self.process.stdout
        async with asyncio.timeout(TIMEOUT_S):
            return int(await self.process.stdout.readline())

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system


@asynccontextmanager
async def context_server(transport: str, tables: list[list[int]]) -> AsyncIterator[Context]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fakes.context_server", transport, msgspec.json.encode(tables)),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            tickets = msgspec.json.decode(await process.stdout.readline(), type=list[Ticket])
        yield Context(process, tickets)
        process.stdin.close()
        async with asyncio.timeout(60):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def pool() -> Iterator[KvPool]:
    with KvPool(SHAPE, NUM_BLOCKS, staging_bytes=STAGING_BYTES) as pool:
        fill(pool, seed=0)
        yield pool


MPI, MPI_FAR = (pytest.param(name, marks=needs_mpi) for name in ("mpi", "mpi-far"))


@pytest.fixture(params=["local", "nixl", MPI])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which transport; `nixl-far` as between hosts, where each read needs the target's help."""
    if str(request.param).endswith("-far"):
        monkeypatch.setenv("UCX_TLS", "tcp")
    return str(request.param)


@pytest.fixture
def ends_a_peer(name: str, request: pytest.FixtureRequest) -> None:
    """MPICH may end the process of a test together with its peer."""
    if name.startswith("mpi") and not request.config.getoption("--soak"):
        pytest.skip("with --soak: MPICH may end this process, too")


@pytest.fixture
def transport(name: str, pool: KvPool) -> Iterator[Transport]:
    with open_named(name, pool, "generation-0#1") as (transport,):
        yield transport


also_far = pytest.mark.parametrize("name", ["local", "nixl", "nixl-far", MPI, MPI_FAR], indirect=True)


@asynccontextmanager
async def moving(transport: Transport) -> AsyncIterator[RankMover]:
    async with RankMover(LAYOUT, 0, transport.pool, [transport], incarnation="generation-0#1") as mover:
        yield mover


@asynccontextmanager
async def generation(
    transport: Transport, mover: RankMover | None = None, *, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Transceiver]:
    async with AsyncExitStack() as stack:
        transceiver = Transceiver(
            server="generation-0",
            incarnation="generation-0#1",
            layout=LAYOUT,
            movers=[mover or await stack.enter_async_context(moving(transport))],
            lease_ms=30_000,
            transfer_timeout_ms=int(timeout_s * 1000),
        )
        yield await stack.enter_async_context(transceiver)


@pytest.fixture(scope="module")
def content() -> torch.Tensor:
    """What a context server's pool holds."""
    return random_cache(LAYOUT, SEED)


@also_far
async def test_random_blocks_arrive_as_they_are(
    name: str, transport: Transport, pool: KvPool, content: torch.Tensor
) -> None:
    order = random.Random(5).sample(range(NUM_BLOCKS), NUM_BLOCKS)
    tables = [order[:1], order[1:20], order[20:], list(range(30))]  # the last in one run, and it overlaps the others
    mine = random.Random(6).sample(range(NUM_BLOCKS), NUM_BLOCKS)
    async with context_server(name, tables) as context, generation(transport) as transceiver:
        for ticket in context.tickets:
            before = pool.tensor.clone()
            blocks = mine[: len(ticket.blocks)] if ticket.request_id < 4 else list(range(50, 80))
            await (await transceiver.claim(ticket)).fetch(blocks)
            assert torch.equal(pool.tensor[blocks], content[ticket.blocks])
            others = sorted(set(range(NUM_BLOCKS)) - set(blocks))
            assert torch.equal(pool.tensor[others], before[others])
            assert await context.released() == ticket.request_id
    assert context.process.returncode == 0


async def test_a_storm_of_cancels_leaves_nothing(
    name: str, transport: Transport, pool: KvPool, content: torch.Tensor
) -> None:
    """Blocks have other owners as soon as a fetch has ended, however it did: nothing is written into them later."""
    num_bursts, num_at_once, num_each = 5, 32, NUM_BLOCKS // 32
    random_, loop = random.Random(7), asyncio.get_running_loop()
    tables = [random_.sample(range(NUM_BLOCKS), num_each) for _ in range(num_bursts * num_at_once)]
    async with context_server(name, [*tables, [3, 4]]) as context, generation(transport) as transceiver:
        *tickets, last = context.tickets

        async def fetch(ticket: Ticket, blocks: list[int]) -> None:
            try:
                claim = await transceiver.claim(ticket)
                try:
                    await claim.fetch(blocks)
                    assert torch.equal(pool.tensor[blocks], content[ticket.blocks])
                finally:
                    claim.release()
            except asyncio.CancelledError:
                transceiver.release(ticket)
                raise
            finally:
                pool.tensor[blocks] = -1.0

        for _ in range(num_bursts):
            burst = []
            for i in range(num_at_once):
                blocks = list(range(i * num_each, (i + 1) * num_each))
                burst.append(asyncio.create_task(fetch(tickets.pop(), blocks)))
                loop.call_later(random_.uniform(0, 0.05), burst[-1].cancel)
            for result in await asyncio.gather(*burst, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        assert sorted([await context.released() for _ in tables]) == list(range(1, len(tables) + 1))
        assert (pool.tensor == -1.0).all()
        await (await transceiver.claim(last)).fetch([0, 1])
        assert torch.equal(pool.tensor[[0, 1]], content[[3, 4]])
        stats = transceiver.stats()
        assert (stats.num_claims, stats.num_transfers_running, stats.num_transfer_failures_total) == (0, 0, 0)


async def test_an_idle_server_serves_and_stays_idle(
    name: str, transport: Transport, pool: KvPool, content: torch.Tensor
) -> None:
    async with context_server(name, [[3, 4], [5]]) as context, generation(transport) as transceiver:
        first, second = context.tickets
        await (await transceiver.claim(first)).fetch([0, 1])
        await (await transceiver.claim(second)).fetch([2])
        assert [await context.released(), await context.released()] == [1, 2]
        us, them = psutil.Process(), context.cpu_s()
        before = sum(us.cpu_times()[:2])
        await asyncio.sleep(1)  # the time that is measured
        assert context.cpu_s() - them <= 0.1
        assert sum(us.cpu_times()[:2]) - before <= 0.1
        assert torch.equal(pool.tensor[[0, 1, 2]], content[[3, 4, 5]])


@pytest.mark.usefixtures("ends_a_peer")
async def test_a_context_server_killed_before_the_fetch(name: str, transport: Transport) -> None:
    async with context_server(name, [[3, 4], [5]]) as context, generation(transport) as transceiver:
        claims = [await transceiver.claim(t) for t in context.tickets]
        context.process.kill()
        await context.process.wait()
        begun = time.monotonic()
        for claim in claims:
            with pytest.raises(HandoverError, match="context-0"):
                await claim.fetch([0, 1])
        with pytest.raises(HandoverError, match="context-0 cannot be reached"):
            await transceiver.claim(context.tickets[0])
        assert time.monotonic() - begun < TIMEOUT_S
        assert transceiver.stats().num_claims == 0


@pytest.mark.usefixtures("ends_a_peer")
@also_far
async def test_a_context_server_killed_during_the_fetch(
    name: str, transport: Transport, pool: KvPool, content: torch.Tensor
) -> None:
    tables = [random.Random(5).sample(range(NUM_BLOCKS), 64)]
    async with context_server(name, tables) as context, generation(transport) as transceiver:
        claim = await transceiver.claim(context.tickets[0])
        fetch = asyncio.create_task(claim.fetch(list(range(64))))
        await asyncio.sleep(0)  # it has begun
        context.process.kill()
        async with asyncio.timeout(TIMEOUT_S):
            try:
                await fetch
            except HandoverError:
                assert transceiver.stats().num_transfer_failures_total == 1
            else:  # it was over before the signal: then what has come is right
                assert torch.equal(pool.tensor[:64], content[tables[0]])


@pytest.mark.usefixtures("ends_a_peer")
@pytest.mark.parametrize("name", ["local", MPI], indirect=True)
async def test_a_frozen_context_server_fails_the_fetch_in_time(name: str, transport: Transport) -> None:
    async with context_server(name, [[3, 4]]) as context, generation(transport, timeout_s=0.3) as transceiver:
        claim = await transceiver.claim(context.tickets[0])
        context.process.send_signal(signal.SIGSTOP)
        with pytest.raises(HandoverError, match=r"no transfer within 0.3 s"):
            await claim.fetch([0, 1])
        context.process.send_signal(signal.SIGCONT)
        assert await context.released() == 1  # it sees that the connection is gone


@pytest.mark.parametrize("way", ["staged pull", "push"])
@pytest.mark.parametrize("name", ["nixl", "nixl-far"], indirect=True)
async def test_a_prompt_larger_than_the_buffer_goes_through_it(
    name: str, transport: Transport, pool: KvPool, content: torch.Tensor, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "choose", lambda *_: way)
    theirs, mine = random.Random(5).sample(range(NUM_BLOCKS), 40), random.Random(6).sample(range(NUM_BLOCKS), 40)
    async with context_server(name, [theirs]) as context, generation(transport) as transceiver:
        before = pool.tensor.clone()
        await (await transceiver.claim(context.tickets[0])).fetch(mine)
        assert torch.equal(pool.tensor[mine], content[theirs])
        others = sorted(set(range(NUM_BLOCKS)) - set(mine))
        assert torch.equal(pool.tensor[others], before[others])


@pytest.mark.parametrize("name", ["nixl"], indirect=True)
async def test_slots_that_a_frozen_server_may_write_come_back_when_it_is_gone(
    name: str, transport: Transport, pool: KvPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "choose", lambda *_: "push")
    async with (
        context_server(name, [[3, 4]]) as context,
        moving(transport) as mover,
        generation(transport, mover, timeout_s=0.3) as transceiver,
    ):
        claim = await transceiver.claim(context.tickets[0])
        slots, before = mover._means.slots, pool.tensor.clone()
        assert slots is not None
        context.process.send_signal(signal.SIGSTOP)
        with pytest.raises(HandoverError, match=r"no transfer within 0.3 s"):
            await claim.fetch([0, 1])
        assert slots.num_quarantined == 1
        slots.check_integrity()
        context.process.kill()
        async with asyncio.timeout(TIMEOUT_S):
            while slots.num_quarantined:
                await asyncio.sleep(0)
        slots.check_integrity()
        assert torch.equal(pool.tensor, before)
