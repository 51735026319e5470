"""KV through staging buffers: it arrives as it is, and a writer that is lost touches nothing but a slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch
from fakes.transports import WritingTransport
from helpers.kv import LAYOUT, Server, server

from trtdisagg.cache.movers import links
from trtdisagg.cache.movers.help import Help
from trtdisagg.cache.movers.staging import Slots
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.streams import PeerLostError
from trtdisagg.cache.transports import Transport
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.helping import Packed, RankHello
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import TransferSpec

pytestmark = pytest.mark.anyio

TP2 = msgspec.structs.replace(LAYOUT, parallel=Parallel(tp_size=2))


def writing(pool: KvPool) -> list[Transport]:
    return [WritingTransport(pool)]


def hanging(may_write: threading.Event) -> Callable[[KvPool], list[Transport]]:
    return lambda pool: [WritingTransport(pool, may_write)]


def slots_of(server: Server, rank: int = 0) -> Slots:
    slots = server.movers[rank]._means.slots
    assert slots
    return slots


@pytest.fixture(params=["pull", "staged pull", "push"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All fetches go this way."""
    monkeypatch.setattr(links, "choose", lambda *_: request.param)
    return str(request.param)


@pytest.mark.parametrize("staging_bytes", [512, 5000, 1 << 20])
async def test_several_prompts_at_once_arrive_as_they_are(way: str, staging_bytes: int) -> None:
    """The smallest buffer holds two pieces of 128 bytes in each half; a prompt has 4 KiB and more."""
    some: dict[str, object] = {"transports": writing, "staging_bytes": staging_bytes}
    async with (
        server("context-0", seed=1, layout=TP2, **some) as context,
        server("context-1", seed=2, **some) as other,
        server("generation-0", **some) as generation,
    ):

        async def fetch(source: Server, first: int) -> None:
            theirs = list(range(first, first + 4))
            claim = await generation.transceiver.claim(source.hold(first, theirs))
            mine = theirs if source is context else [16 + block for block in theirs]
            await claim.fetch(mine)
            num_tokens = len(theirs) * LAYOUT.tokens_per_block
            assert torch.equal(generation.read(mine, num_tokens), source.read(theirs, num_tokens))

        async with asyncio.timeout(60):
            await asyncio.gather(*(fetch(source, first) for source in (context, other) for first in (0, 4, 8, 12)))
        slots_of(generation).check_integrity()
        assert slots_of(generation).num_quarantined == 0


async def test_servers_that_fetch_from_each_other_do_not_wait_for_each_other(way: str) -> None:
    some: dict[str, object] = {"transports": writing, "staging_bytes": 512, "seed": 1}
    async with server("a", **some) as a, server("b", **some) as b:

        async def fetch(from_: Server, to: Server, block: int) -> None:
            await (await to.transceiver.claim(from_.hold(block, [block, block + 1]))).fetch([block + 8, block + 9])

        async with asyncio.timeout(60):
            await asyncio.gather(*(fetch(*pair, block) for pair in ((a, b), (b, a)) for block in (0, 2, 4, 6)))


@pytest.mark.parametrize("way", ["push"], indirect=True)
async def test_a_writer_that_hangs_keeps_its_slots_and_touches_nothing_else(way: str) -> None:
    may_write = threading.Event()
    may_write.set()
    ours: list[WritingTransport] = []

    def writing_too(pool: KvPool) -> list[Transport]:
        ours.append(WritingTransport(pool))
        return list(ours)

    async with (
        server("context-0", seed=1, transports=hanging(may_write), staging_bytes=16384) as context,
        server("context-1", seed=2, transports=writing, staging_bytes=16384) as other,
        server("generation-0", transports=writing_too, staging_bytes=16384, transfer_timeout_ms=2000) as generation,
    ):
        await generation.transceiver.meet(context.address)
        may_write.clear()
        before, slots = generation.pool.tensor.clone(), slots_of(generation)
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        with pytest.raises(HandoverError, match=r"no transfer within 2 s"):
            await claim.fetch([0])
        assert slots.num_quarantined == 1
        assert ours[0].is_serving, "between hosts the write would never end"
        assert torch.equal(generation.pool.tensor, before)
        # The peer is given up meanwhile, and others are fetched from as before.
        await (await generation.transceiver.claim(other.hold(1, [5]))).fetch([2])
        assert slots.num_quarantined == 1
        slots.check_integrity()
        before = generation.pool.tensor.clone()
        may_write.set()
        while slots.num_quarantined:
            await asyncio.sleep(0)
        assert torch.equal(generation.pool.tensor, before)
        slots.check_integrity()
        assert not ours[0].is_serving


@pytest.mark.parametrize("way", ["push", "staged pull"], indirect=True)
async def test_a_fetch_without_a_slot_that_may_be_used_fails(way: str) -> None:
    """All went into quarantine after its way was chosen."""
    some: dict[str, object] = {"transports": writing, "staging_bytes": 4096}
    async with server("context-0", seed=1, **some) as context, server("generation-0", **some) as generation:
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        written = await all_quarantined(slots_of(generation))
        with pytest.raises(HandoverError, match="all slots of the staging buffer"):
            await claim.fetch([0])
        written.set_result(None)


async def test_without_a_slot_that_may_be_used_servers_meet_and_pull() -> None:
    some: dict[str, object] = {"transports": writing, "staging_bytes": 4096}
    async with server("context-0", seed=1, **some) as context, server("generation-0", **some) as generation:
        written = await all_quarantined(slots_of(generation))
        async with asyncio.timeout(links.TEST_TIMEOUT_S):
            await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])
        assert torch.equal(generation.read([0], 4), context.read([3], 4))
        written.set_result(None)


async def all_quarantined(slots: Slots) -> asyncio.Future[None]:
    """
    :return: to be done when they may be used again.
    """
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for _ in range(slots.num_slots):
        slots.give_when(await slots.take(), written)
    return written


async def test_zero_copy_never_stages(way: str) -> None:
    spec = TransferSpec(zero_copy=True)
    async with (
        server("context-0", seed=1, transports=writing, staging_bytes=4096) as context,
        server("generation-0", transports=writing, spec=spec, staging_bytes=4096) as generation,
    ):
        await generation.transceiver.meet(context.address)
        [neighbours] = generation.movers[0]._met.values()
        assert neighbours.links[0].figures.request_s is None


@pytest.mark.parametrize("figures", [{"receive_parallel": False}, {"receive_concurrent": False}])
async def test_one_after_the_other_where_it_is_asked_for(way: str, figures: dict[str, bool]) -> None:
    some: dict[str, object] = {"transports": writing, "staging_bytes": 4096}
    async with (
        server("context-0", seed=1, layout=TP2, **some) as context,
        server("generation-0", spec=TransferSpec(**figures), **some) as generation,
    ):
        for first in (0, 4):
            await (await generation.transceiver.claim(context.hold(first, [first, first + 1]))).fetch([1, 2])
            assert torch.equal(generation.read([1, 2], 8), context.read([first, first + 1], 8))


# --- what the helper refuses ----------------------------------------------------------------------------------------


@pytest.fixture
def may_write() -> threading.Event:
    """Whether the holder's writes end."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
async def helped(may_write: threading.Event) -> object:
    """A holder, a pool of ours, and what opens a connection between them."""
    some: dict[str, object] = {"transports": hanging(may_write), "staging_bytes": 4096}
    async with server("context-0", seed=1, secret=b"s", **some) as context:
        with KvPool(context.pool.shape, 8, staging_bytes=4096) as pool:
            pool.memory.zero_()

            async def open_(secret: bytes = b"s", **changes: object) -> Help:
                hello = RankHello(
                    incarnation="g#1",
                    rank=0,
                    memory=[WritingTransport(pool).describe()],
                    region=pool.region,
                    proof=b"",
                )
                memory = await context.movers[0].describe()
                return await Help.open(memory, msgspec.structs.replace(hello, **changes), secret)

            yield context, pool, open_


async def test_only_who_knows_the_secret_is_helped(helped: tuple[Server, KvPool, Callable[..., object]]) -> None:
    _, _, open_ = helped
    with pytest.raises(HandoverError, match="refused: the secret is not this cluster's"):
        await open_(secret=b"other")
    with pytest.raises(HandoverError, match="refused: wire version"):
        await open_(wire_version=-1)


async def test_nothing_is_packed_or_pushed_beyond_what_it_may(
    helped: tuple[Server, KvPool, Callable[..., object]],
) -> None:
    context, pool, open_ = helped
    help_ = await open_()
    running = asyncio.create_task(help_.run())
    theirs, ours = context.pool.region, pool.region
    whole = asked((0, 64))
    for runs, reason in [
        (asked((theirs.staging_offset, 64)), "outside"),
        (asked((-8, 16)), "outside"),
        (asked((0, 1 << 20)), "do not fit into a slot"),
        (b"1234567", "no list of runs"),
    ]:
        with pytest.raises(HandoverError, match=reason):
            await help_.pack(runs)[1]
        with pytest.raises(HandoverError, match=reason):
            await help_.push(runs, ours.staging_offset).answer
    for offset in (0, ours.staging_offset - 1, ours.num_bytes - 63, -1):
        pushing = help_.push(whole, offset)
        with pytest.raises(HandoverError, match="are not in the staging buffer"):
            await pushing.answer
        assert pushing.written.done()
    assert not pool.memory[: ours.pool_bytes].any()
    assert not pool.memory[ours.sink_offset :].any()
    await help_.push(whole, ours.num_bytes - 64).answer
    assert torch.equal(pool.memory[-64:], context.pool.memory[:64])
    help_.close()
    await running


async def test_who_has_gone_silent_is_not_told_that_his_piece_was_kept(
    helped: tuple[Server, KvPool, Callable[..., object]],
) -> None:
    context, _, open_ = helped
    help_ = await open_()
    running = asyncio.create_task(help_.run())
    piece, packed = help_.pack(asked((0, 64)))
    await packed
    await context.movers[0]._stack.aclose()  # the holder ends: its slot is free for others
    with pytest.raises(HandoverError, match="connection to the peer was lost"):
        await help_.done(piece)
    await running


async def test_who_was_frozen_does_not_find_that_his_piece_was_kept(
    helped: tuple[Server, KvPool, Callable[..., object]],
) -> None:
    """What he finds when he wakes up was sent before he says `Done`; it must not look like the answer to that."""
    context, _, open_ = helped
    stream = (help_ := await open_())._stream
    help_.pack(asked((0, 64)))
    assert isinstance(await stream.receive(5), Packed)
    await context.movers[0]._stack.aclose()  # the holder gives the slot to others
    with pytest.raises(PeerLostError):
        await stream.receive(5)
    stream.abort()


async def test_a_write_that_hangs_ends_with_the_connection_and_holds_up_nobody(
    helped: tuple[Server, KvPool, Callable[..., object]], may_write: threading.Event
) -> None:
    context, pool, open_ = helped
    may_write.clear()
    lost, other = await open_(), await open_()
    running = [asyncio.create_task(help_.run()) for help_ in (lost, other)]
    lost.push(asked((0, 64)), pool.region.staging_offset)
    sending = context.movers[0]._transports[0]
    assert await asyncio.to_thread(sending.has_begun.wait, 5)
    lost._stream.abort()
    async with asyncio.timeout(60):
        await other.pack(asked((0, 64)))[1]  # by the only thread
    other.close()
    await asyncio.gather(*running)


def asked(*runs: tuple[int, int]) -> bytes:
    return np.array(runs, np.int64).tobytes()
