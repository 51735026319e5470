"""Any division of a model to any other: every byte arrives where a plain reference puts it, and none arrives twice."""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import numpy as np
import pytest
from helpers.layouts import GARBAGE, NUM_BLOCKS, empty_pool, layout, part, the_cache, written

from trtdisagg.cache.layout import Runs, check_layout
from trtdisagg.cache.planning import Planner
from trtdisagg.cache.shares import holders, ranks_to_meet
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.peers import Part

NUMS_OF_KV_HEADS = (1, 2, 3, 8)
BLOCK_SIZES = (16, 32, 64)
PARTITIONS = ((), (3, 3), (1, 5), (2, 2, 2), (1, 3, 2))
"""Of six layers, even ones and others."""


class Division(NamedTuple):
    tp: int
    pp: tuple[int, ...]
    dp: bool


class Case(NamedTuple):
    num_kv_heads: int
    mine: Division
    theirs: Division


def is_allowed(division: Division, num_kv_heads: int) -> bool:
    tp = division.tp
    return division.dp or num_kv_heads % tp == 0 or tp % num_kv_heads == 0


def all_cases(num_kv_heads: int) -> list[Case]:
    ways = itertools.product((1, 2, 3, 4), PARTITIONS, (False, True))
    divisions = [Division(*way) for way in ways if way[0] > 1 or not way[2]]
    allowed = [division for division in divisions if is_allowed(division, num_kv_heads)]
    return [Case(num_kv_heads, *pair) for pair in itertools.product(allowed, repeat=2)]


def layout_of(division: Division, num_kv_heads: int, tokens_per_block: int) -> KvLayout:
    tp, pp, dp = division
    return layout(tp, pp, dp=dp, num_kv_heads=num_kv_heads, tokens_per_block=tokens_per_block)


def table(rng: random.Random, num_tokens: int, tokens_per_block: int) -> list[int]:
    """Blocks for so many tokens and perhaps more, sometimes neighbours."""
    num_blocks = -(-num_tokens // tokens_per_block) + rng.choice((0, 0, 1))
    if rng.random() < 0.3:
        return list(range(num_blocks))
    return rng.sample(range(NUM_BLOCKS), num_blocks)


def move(runs: Runs, local: np.ndarray, remote: np.ndarray, num_writes: np.ndarray) -> None:
    to, from_ = local.reshape(-1).view(np.uint8), remote.reshape(-1).view(np.uint8)
    assert (runs >= (0, 0, 1)).all()
    assert (runs[:, :2] + runs[:, 2:] <= (len(to), len(from_))).all()
    for here, there, num_bytes in runs.tolist():
        to[here : here + num_bytes] = from_[there : there + num_bytes]
        num_writes[here : here + num_bytes] += 1


def check(case: Case, sizes: tuple[int, int], rng: random.Random) -> None:
    """Move one request, of random length and blocks, by all ranks that have a share of it."""
    num_kv_heads, my_division, their_division = case
    mine, theirs = layout_of(my_division, num_kv_heads, sizes[0]), layout_of(their_division, num_kv_heads, sizes[1])
    num_tokens = rng.randint(1, 150)
    cache = the_cache(num_kv_heads, num_tokens)
    my_blocks = table(rng, num_tokens, mine.tokens_per_block)
    if rng.random() < 0.5:
        my_blocks = [block if rng.random() < 0.7 else -1 for block in my_blocks]
    their_blocks, their_dp_rank = (
        table(rng, num_tokens, theirs.tokens_per_block),
        rng.randrange(theirs.parallel.dp_size),
    )
    request = part(my_blocks, their_blocks, num_tokens, their_dp_rank=their_dp_rank)
    pools = {rank: written(cache, theirs, rank, their_blocks) for rank in holders(theirs, their_dp_rank)}
    for rank in holders(mine, rng.randrange(mine.parallel.dp_size)):
        pool = empty_pool(mine, rank)
        num_writes = np.zeros(pool.nbytes, np.int8)
        planner = Planner(mine, rank, theirs)
        planned = planner.plan(request)
        assert sum(map(len, planned.values())) <= planner.num_runs_at_most(request)
        assert set(planned) <= set(ranks_to_meet(mine, rank, theirs))
        for their_rank, runs in planned.items():
            move(runs, pool, pools[their_rank], num_writes)
        assert num_writes.max() <= 1
        if sizes[0] == sizes[1]:
            forget_rows_behind(pool, mine, request)
        assert (pool == written(cache, mine, rank, my_blocks)).all()


def forget_rows_behind(pool: np.ndarray, mine: KvLayout, request: Part) -> None:
    """Whole blocks are moved where both sides have the same: what lies behind the last token is no matter."""
    last, row = divmod(request.num_tokens - 1, mine.tokens_per_block)
    if request.my_blocks[last] >= 0:
        pool[request.my_blocks[last], :, :, :, row + 1 :] = GARBAGE


@pytest.mark.timeout(600)  # all of them with --soak
@pytest.mark.parametrize("num_kv_heads", NUMS_OF_KV_HEADS)
def test_every_byte_arrives_where_it_belongs(num_kv_heads: int, request: pytest.FixtureRequest) -> None:
    rng = random.Random(num_kv_heads)
    everything = list(itertools.product(all_cases(num_kv_heads), itertools.product(BLOCK_SIZES, repeat=2)))
    for case, sizes in everything if request.config.getoption("--soak") else rng.sample(everything, 200):
        check(case, sizes, rng)


def test_what_is_in_the_same_place_on_both_sides_moves_in_few_runs() -> None:
    blocks = [0, 1, 2, 3, 8, 9]
    request = part(blocks, blocks, 6 * 16)

    def num_runs(mine: KvLayout, theirs: KvLayout) -> int:
        return sum(len(runs) for runs in Planner(mine, 0, theirs).plan(request).values())

    whole, stages, shards = layout(), layout(pp=(2, 4)), layout(tp=2)
    assert num_runs(whole, whole) == num_runs(shards, shards) == 2  # the neighbours are one
    assert num_runs(whole, stages) == 2 * 6  # a block of each stage
    assert num_runs(stages, whole) == 6
    assert num_runs(whole, shards) == 2 * 6 * 6  # a layer of each block of each shard
    assert num_runs(shards, layout(tp=2, pp=(2, 4))) == 2 * 6


@pytest.mark.parametrize("num_kv_heads", NUMS_OF_KV_HEADS)
def test_the_layouts_of_all_cases_can_be(num_kv_heads: int) -> None:
    for case in all_cases(num_kv_heads):
        check_layout(layout_of(case.mine, num_kv_heads, 16))
