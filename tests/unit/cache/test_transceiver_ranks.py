"""Servers of several ranks hand KV to each other, whatever their division; a rank may be in another process."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import torch
from helpers.kv import LAYOUT, GatedTransport, divided, server

from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout

pytestmark = pytest.mark.anyio

WIDE = msgspec.structs.replace(LAYOUT, num_layers=3, num_kv_heads=4)
SMALL_BLOCKS = msgspec.structs.replace(WIDE, tokens_per_block=2)

DIVISIONS = {
    "tp1": WIDE,
    "tp2": divided(WIDE, tp_size=2),
    "tp8": divided(WIDE, tp_size=8),  # each head twice
    "pp2": divided(WIDE, pp=[2, 1]),
    "tp2pp2": divided(WIDE, tp_size=2, pp=[1, 2]),
    "dp2": divided(WIDE, tp_size=2, attention_dp=True),
    "small": divided(SMALL_BLOCKS, tp_size=2),
}


PAIRS = [(a, b) for a in DIVISIONS for b in DIVISIONS if "tp1" in (a, b)]  # the others: see `test_planning_layouts`
PAIRS += [("tp2pp2", "tp2pp2"), ("tp8", "pp2"), ("dp2", "tp2pp2"), ("small", "dp2")]


@pytest.mark.parametrize(
    ("theirs", "mine", "are_remote"),
    [(*pair, False) for pair in PAIRS] + [("tp2", "tp2pp2", True), ("tp1", "dp2", True)],
)
async def test_kv_arrives_whatever_the_divisions(theirs: str, mine: str, are_remote: bool) -> None:
    there, here = DIVISIONS[theirs], DIVISIONS[mine]
    their_dp_rank, my_dp_rank = there.parallel.dp_size - 1, here.parallel.dp_size - 1
    async with (
        server("context-0", layout=there, seed=1) as context,
        server("generation-0", layout=here, seed=2, are_remote=are_remote) as generation,
    ):
        blocks = [5, 6, 9, 2, 3, 8, 7] if there.tokens_per_block == 2 else [5, 6, 9, 2]
        my_blocks = [1, 2, 3, 0, 9, 8, 7] if here.tokens_per_block == 2 else [1, 2, 3, 0]
        before = [pool.tensor.clone() for pool in generation.pools]
        ticket = context.hold(1, blocks, num_tokens=14, dp_rank=their_dp_rank)
        transfer = await (await generation.transceiver.claim(ticket)).fetch(my_blocks, my_dp_rank)
        assert torch.equal(generation.read(my_blocks, 14, my_dp_rank), context.read(blocks, 14, their_dp_rank))
        await context.releases.wait(1)
        assert transfer.num_bytes == sum(_changed(generation.pools, before, here))
        others = sorted(set(range(here.num_blocks)) - set(my_blocks))
        for pool, old in zip(generation.pools, before, strict=True):
            assert torch.equal(pool.tensor[others], old[others])


def _changed(pools: list, before: list, layout: KvLayout) -> list[int]:
    """Bytes of each rank's rows that are not what they were."""
    return [int((pool.tensor != old).sum()) * 4 for pool, old in zip(pools, before, strict=True)]


async def test_one_rank_that_fails_ends_the_transfer_when_the_others_have_ended() -> None:
    """The others still write: not before they have ended may the blocks have other owners."""
    layout = divided(WIDE, tp_size=2)
    gates = [GatedTransport(), GatedTransport()]
    async with (
        server("context-0", layout=layout, transports=gates[:1]) as context,
        server("generation-0", layout=layout, transports=[[gate] for gate in gates]) as generation,
    ):
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        fetch = asyncio.create_task(claim.fetch([0]))
        for gate in gates:
            await gate.begun()
        gates[1].read_error = "the link broke"
        gates[1].may_end.set()
        await asyncio.wait([fetch], timeout=0.05)
        assert not fetch.done()
        gates[0].may_end.set()
        with pytest.raises(HandoverError, match="the link broke"):
            await fetch
        await context.releases.wait(1)


async def test_a_rank_that_cannot_be_reached_is_named() -> None:
    layout = divided(WIDE, tp_size=2)
    gates = [GatedTransport(), GatedTransport(connect_error="no such link")]
    async with (
        server("context-0", layout=layout, transports=gates[:1]) as context,
        server("generation-0", layout=layout, transports=[[gate] for gate in gates]) as generation,
    ):
        linked = await generation.transceiver.meet(context.address)
        assert linked.error
        assert "rank 1 here, rank 1 there: no transport connects: not local: no such link" in linked.error
        assert gates[0].num_closes == 1  # the rank that had met it forgot it
        gates[1].connect_error = None
        linked = await generation.transceiver.meet(context.address)
        assert (linked.error, linked.server, linked.transport, linked.direction) == (None, "context-0", "local", "pull")
