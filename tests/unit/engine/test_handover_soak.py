"""Engines hand over through real transceivers, at random and for long: no wrong token, and nothing is left."""

from __future__ import annotations

import msgspec
import pytest
from helpers.handovers import HandoverWorld, Resources, engine
from helpers.kv import LAYOUT, divided

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SMALL = msgspec.structs.replace(LAYOUT, head_dim=2, num_blocks=48)
OTHER_BLOCKS = msgspec.structs.replace(SMALL, tokens_per_block=3)


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [(SMALL, divided(SMALL, tp_size=2)), (divided(OTHER_BLOCKS, pp=[1, 1]), SMALL)],
    ids=["tp1-tp2", "pp2-tp1"],
)
async def test_nothing_is_lost_of_what_is_handed_over(theirs, mine, num_rounds: int) -> None:
    """With `--soak`: 10,000 handovers."""
    num_handovers = 120 if num_rounds == 1 else 5_000
    async with (
        engine("context-0", theirs, are_remote=True) as context,
        engine("generation-0", mine, are_remote=True) as generation,
    ):
        world = HandoverWorld(context, generation, seed=5)
        await world.hand_over_many(20, num_at_once=8)
        for each in (context, generation):
            await each.until_empty()
        before = Resources.now()
        await world.hand_over_many(num_handovers, num_at_once=8)
        for each in (context, generation):
            await each.until_empty()
            each.check_integrity()
        assert Resources.now() == before
        assert world.num_cancelled > num_handovers / 5
        stats = generation.kv.transceiver.stats()
        assert (stats.num_claims, stats.num_transfers_running) == (0, 0)
        assert stats.num_transfers_total > num_handovers / 2
        assert context.kv.transceiver.stats().num_expired_leases_total == 0
