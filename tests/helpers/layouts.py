"""Divisions of a small model, and what the pools of their ranks hold: the plain reference of layout arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from trtdisagg.cache.layout import Runs, rank_shape
from trtdisagg.cache.planning import Planner
from trtdisagg.cache.shares import heads_of, layers_of
from trtdisagg.protocol.handover import KvLayout, KvShape
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.peers import Part

NUM_LAYERS = 6
HEAD_DIM = 2
NUM_BLOCKS = 12
GARBAGE = -1.0


def layout(
    tp: int = 1, pp: Sequence[int] = (), *, dp: bool = False, num_kv_heads: int = 8, tokens_per_block: int = 16
) -> KvLayout:
    """
    :param pp: layers of each stage.
    :param dp: with attention data parallelism.
    """
    return KvLayout(
        model="m",
        dtype="float32",
        num_layers=NUM_LAYERS,
        num_kv_heads=num_kv_heads,
        head_dim=HEAD_DIM,
        tokens_per_block=tokens_per_block,
        num_blocks=NUM_BLOCKS,
        parallel=Parallel(tp_size=tp, pp_partition=list(pp), attention_dp=dp),
    )


def one_rank(shape: KvShape) -> KvLayout:
    """A server whose only rank has this pool."""
    return KvLayout(num_blocks=1000, **msgspec.structs.asdict(shape))


def part(my_blocks: Sequence[int], their_blocks: Sequence[int], num_tokens: int, *, their_dp_rank: int = 0) -> Part:
    """A request."""
    return Part(
        incarnation="",
        their_dp_rank=their_dp_rank,
        their_blocks=list(their_blocks),
        my_blocks=list(my_blocks),
        num_tokens=num_tokens,
        timeout_ms=1,
    )


def transfer_runs(
    mine: KvShape, my_blocks: Sequence[int], theirs: KvShape, their_blocks: Sequence[int], num_tokens: int
) -> Runs:
    """What moves between two servers of one rank."""
    [runs] = Planner(one_rank(mine), 0, one_rank(theirs)).plan(part(my_blocks, their_blocks, num_tokens)).values()
    return runs


def the_cache(num_kv_heads: int, num_tokens: int) -> np.ndarray:
    """[layer, head, k|v, token, dim]: a number of its own for each value."""
    shape = (NUM_LAYERS, num_kv_heads, 2, num_tokens, HEAD_DIM)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def empty_pool(of: KvLayout, rank: int) -> np.ndarray:
    s = rank_shape(of, rank)
    size = (of.num_blocks, s.num_layers, s.num_kv_heads, 2, s.tokens_per_block, s.head_dim)
    return np.full(size, GARBAGE, np.float32)


def written(cache: np.ndarray, of: KvLayout, rank: int, blocks: list[int]) -> np.ndarray:
    """The pool of a rank that computed the cache, or received it.

    :param blocks: in token order; -1: not wanted.
    """
    pool, size = empty_pool(of, rank), of.tokens_per_block
    layers, heads = layers_of(of, rank), heads_of(of, rank)
    for token in range(cache.shape[3]):
        if blocks[token // size] >= 0:
            row = cache[layers.start : layers.stop, heads.start : heads.stop, :, token]
            pool[blocks[token // size], :, :, :, token % size] = row
    return pool
