"""Slots of a staging buffer, pieces that fit into them, and the choice between the ways."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.kv import SHAPE

from trtdisagg.cache.copying import copy_by_index, copy_runs, copy_within
from trtdisagg.cache.layout import block_bytes
from trtdisagg.cache.movers.choice import Experience, Figures, Way, choose, compute
from trtdisagg.cache.movers.pieces import as_asked, into_slot, out_of_slot, pieces, read_asked
from trtdisagg.cache.movers.staging import SLOT_BYTES, Slots, halves, staging_bytes
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.helping import MAX_RUNS
from trtdisagg.protocol.memory import Region
from trtdisagg.protocol.spec import TransferSpec

pytestmark = pytest.mark.anyio


def random_runs(rng: np.random.Generator, size: int, num_runs: int) -> np.ndarray:
    """Runs between two memories of `size` bytes, none of which overlap on either side."""
    cuts = np.sort(rng.choice(size, 2 * num_runs, replace=False))
    lengths = np.diff(cuts)[::2]
    order = rng.permutation(num_runs)
    starts = np.cumsum(np.concatenate(([0], lengths[order])))[:-1]
    return np.column_stack((starts, cuts[::2][order], lengths[order])).astype(np.int64)


@pytest.mark.parametrize("slot_bytes", [1, 7, 64, 1000, 10_000, 1 << 20])
def test_pieces_packed_and_unpacked_are_what_a_plain_copy_makes(slot_bytes: int) -> None:
    rng = np.random.default_rng(slot_bytes)
    size = 500 if slot_bytes == 1 else 20_000
    runs = random_runs(rng, size, 40)
    theirs = rng.integers(0, 256, size + slot_bytes, np.uint8)
    expected, ours = np.zeros(size, np.uint8), np.zeros(size + slot_bytes, np.uint8)
    for to, from_, length in runs.tolist():
        expected[to : to + length] = theirs[from_ : from_ + length]
    for piece in pieces(runs, slot_bytes):
        assert 0 < piece[:, 2].sum() <= slot_bytes
        asked = read_asked(as_asked(piece), slot_bytes)
        here, there = (a.ctypes.data, len(a)) if (a := theirs) is not None else None, (ours.ctypes.data, len(ours))
        copy_runs(here, here, into_slot(asked, size))
        ours[size:] = theirs[size:]  # the way
        copy_runs(there, there, out_of_slot(piece, size))
    assert (ours[:size] == expected).all()


def test_all_pieces_but_the_last_fill_their_slot() -> None:
    runs = np.array([[0, 0, 1000], [5000, 5000, 3], [9000, 9000, 497]], np.int64)
    assert [int(piece[:, 2].sum()) for piece in pieces(runs, 400)] == [400, 400, 400, 300]
    assert list(pieces(runs[:0], 400)) == []


def test_a_piece_has_no_more_runs_than_fit_into_a_message() -> None:
    starts = np.arange(MAX_RUNS + 10, dtype=np.int64)
    runs = np.column_stack((starts * 2, starts * 3, np.ones_like(starts)))
    assert [len(piece) for piece in pieces(runs, 1 << 20)] == [MAX_RUNS, 10]


@pytest.mark.parametrize(
    "asked", [[(0, 101)], [(0, 60), (0, 60)], [(0, -1)], [(0, 2**62), (0, 2**62), (0, 2**62), (0, 2**62)]]
)
def test_what_does_not_fit_into_a_slot_is_refused(asked: list[tuple[int, int]]) -> None:
    with pytest.raises(HandoverError, match="do not fit into a slot of 100 bytes"):
        read_asked(np.array(asked, np.int64).tobytes(), 100)


def test_what_is_no_list_of_runs_is_refused() -> None:
    with pytest.raises(HandoverError, match="17 bytes are no list of runs"):
        read_asked(bytes(17), 100)


def test_copies_by_index_are_copies_by_run() -> None:
    """What packs on a device."""
    rng = np.random.default_rng(3)
    for unit in (1, 8, 16):
        runs = random_runs(rng, 500, 20) * unit + [1000 * unit, 0, 0]
        memory = torch.from_numpy(rng.integers(0, 256, 2000 * unit, np.uint8))
        by_run = memory.clone()
        copy_within(by_run, runs)
        copy_by_index(memory, runs)
        assert torch.equal(memory, by_run)
    copy_by_index(memory, runs[:0])


def test_the_halves_of_a_buffer_do_not_overlap() -> None:
    for size in (256, 1000, 1 << 20, 100 << 20):
        region = Region(pool_bytes=12345, staging_bytes=size)
        both = halves(region)
        assert both
        receive, send = both
        assert receive.num_slots == send.num_slots >= 2
        assert receive.slot_bytes <= SLOT_BYTES
        places = [asyncio.run(half.take()) for half in both for _ in range(half.num_slots)]
        assert min(places) == region.staging_offset
        assert sorted(places) == places
        assert min(np.diff(places)) == receive.slot_bytes
        assert places[-1] + send.slot_bytes <= region.num_bytes
    assert halves(Region(pool_bytes=12345, staging_bytes=100)) is None


async def test_slots_are_given_in_the_order_of_asking() -> None:
    slots = Slots(100, 2, 10)
    assert [await slots.take(), await slots.take()] == [100, 110]
    first, second = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    slots.give(110)
    assert await second == 110
    slots.give(100)
    slots.give(110)
    slots.check_integrity()


async def test_a_slot_that_may_be_written_is_in_quarantine() -> None:
    slots = Slots(0, 2, 10)
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    slots.give_when(await slots.take(), written)
    slots.check_integrity()
    assert slots.num_quarantined == 1
    async with slots.slot() as other:
        assert other == 10
        waiting = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        written.set_result(None)
        assert await waiting == 0
    assert slots.num_quarantined == 0
    slots.give_when(0, written)
    slots.check_integrity()


def test_the_buffer_is_as_large_as_the_file_says() -> None:
    block, per_token = block_bytes(SHAPE), block_bytes(SHAPE) // SHAPE.tokens_per_block
    size = lambda **spec: staging_bytes(TransferSpec(**{"transports": ["local", "nixl"], **spec}), SHAPE, 10)  # noqa: E731
    assert size() == 10 * block
    assert size(buffer_bytes=1000) == 1000
    assert size(max_tokens_in_buffer=3) == 3 * per_token
    assert size(max_tokens_in_buffer=3, buffer_bytes=10) == 10
    assert size(zero_copy=True) == 0
    assert size(transports=["local"]) == 0


# --- the choice -----------------------------------------------------------------------------------------------------

FAST = Figures(
    latency_s=3e-6, read_bytes_s=10e9, descriptor_s=1e-6, copy_bytes_s=20e9, write_bytes_s=10e9, request_s=200e-6
)
MIB = 1 << 20


def changed(**figures: float | None) -> Figures:
    return Figures(**{**{name: getattr(FAST, name) for name in Figures.__struct_fields__}, **figures})


@pytest.mark.parametrize(
    ("figures", "num_bytes", "num_runs", "way"),
    [
        (FAST, 64 * MIB, 64, "pull"),  # few large runs: nothing is as fast as one copy
        (FAST, 64 * MIB, 64 * 256, "staged pull"),  # of 4 KiB: descriptors would take longer than the copies
        (changed(write_bytes_s=20e9), 64 * MIB, 64 * 256, "push"),
        (changed(write_bytes_s=None), 64 * MIB, 64 * 256, "staged pull"),
        (changed(request_s=None, write_bytes_s=None), 64 * MIB, 64 * 256, "pull"),  # nobody helps
        (changed(read_bytes_s=0.5e9, write_bytes_s=40e9), 64 * MIB, 64, "push"),  # one direction is far slower
        (changed(read_bytes_s=40e9, write_bytes_s=0.5e9), 64 * MIB, 64 * 256, "staged pull"),
        (FAST, 4096, 1, "pull"),  # a request costs more
        (FAST, 64 * MIB, 0, "pull"),
    ],
)
def test_the_fastest_way_is_chosen(figures: Figures, num_bytes: int, num_runs: int, way: str) -> None:
    assert choose(compute(figures, num_bytes, num_runs, 4 * MIB), Experience()) == way


def test_without_a_buffer_everything_is_pulled() -> None:
    assert list(compute(FAST, 64 * MIB, 64 * 256, 0)) == ["pull"]


def test_what_fetches_really_take_corrects_the_choice() -> None:
    times: dict[Way, float] = {"pull": 0.010, "staged pull": 0.030, "push": 0.040}
    experience = Experience()

    def fetches(num: int, really: dict[Way, float]) -> list[Way]:
        ways = []
        for _ in range(num):
            ways.append(choose(times, experience))
            experience.note(ways[-1], times[ways[-1]], really[ways[-1]])
        return ways

    def mostly(really: dict[Way, float]) -> Way:
        """What four of five fetches end up with: now and then another one is tried again."""
        [(way, num)] = Counter(fetches(200, really)[-20:]).most_common(1)
        assert num >= 16
        return way

    assert mostly({"pull": 0.012, "staged pull": 0.033, "push": 0.044}) == "pull"
    assert mostly({"pull": 0.100, "staged pull": 0.030, "push": 0.040}) == "staged pull"
    assert mostly({"pull": 0.100, "staged pull": 0.300, "push": 0.400}) == "pull"  # all are slow for a while
    assert mostly({"pull": 0.010, "staged pull": 0.030, "push": 0.040}) == "pull"
    assert mostly({"pull": 0.100, "staged pull": 0.300, "push": 0.040}) == "push"


def test_short_fetches_teach_nothing() -> None:
    experience = Experience()
    experience.note("pull", 0.0001, 1.0)
    assert experience.corrected("pull", 1.0) == 1.0
