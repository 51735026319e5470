"""What is to be measured, case by case. Pure.

Cases of the same two layouts come together, since they share pools. Blocks are scattered: no two that follow each other
in a prompt are neighbours by more than chance, as in a pool that has been in use.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trtdisagg.protocol.bench_kv import SHAPES, TOKENS_PER_BLOCK, KvMeasure, Shape, ShapeName, parse_pair
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.parallel import Parallel, even_partition

_ITEM_BYTES = 2
_MIN_LAYERS = 4
"""One for each stage."""


class Group(NamedTuple):
    """Prompts that are moved between the same pools."""

    model: ShapeName
    pair: str
    context: KvLayout
    generation: KvLayout
    nums_of_tokens: tuple[int, ...]
    """The largest one fills the pools."""


def groups(measure: KvMeasure) -> Iterator[Group]:
    for name in measure.models:
        for pair in measure.pairs or SHAPES[name].pairs:
            for num_layers, nums_of_tokens in _by_layers(SHAPES[name], measure):
                yield _group(name, pair, num_layers, nums_of_tokens)


def scattered(num_blocks: int, seed: int) -> list[int]:
    """All blocks of a pool, in the same order for the same seed."""
    blocks = list(range(num_blocks))
    random.Random(seed).shuffle(blocks)
    return blocks


def num_blocks(num_tokens: int) -> int:
    return -(-num_tokens // TOKENS_PER_BLOCK)


def _by_layers(shape: Shape, measure: KvMeasure) -> list[tuple[int, tuple[int, ...]]]:
    """Prompts by the number of layers of which KV is moved: all that fit into the limit."""
    found: dict[int, list[int]] = {}
    for num_tokens in sorted(measure.nums_of_tokens):
        layer_bytes = num_blocks(num_tokens) * TOKENS_PER_BLOCK * shape.num_kv_heads * 2 * shape.head_dim * _ITEM_BYTES
        fitting = min(shape.num_layers, max(_MIN_LAYERS, measure.max_bytes // layer_bytes))
        found.setdefault(fitting, []).append(num_tokens)
    return [(num_layers, tuple(nums)) for num_layers, nums in found.items()]


def _group(name: ShapeName, pair: str, num_layers: int, nums_of_tokens: Sequence[int]) -> Group:
    shape = SHAPES[name]
    context, generation = (
        KvLayout(
            model=name,
            dtype="bfloat16",
            num_layers=num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            tokens_per_block=TOKENS_PER_BLOCK,
            num_blocks=num_blocks(max(nums_of_tokens)),
            parallel=_of_first_layers(parallel, num_layers),
        )
        for parallel in parse_pair(pair, name)
    )
    return Group(name, pair, context, generation, tuple(nums_of_tokens))


def _of_first_layers(parallel: Parallel, num_layers: int) -> Parallel:
    partition = even_partition(num_layers, parallel.pp_size) if parallel.pp_partition else []
    return Parallel(tp_size=parallel.tp_size, pp_partition=partition)
