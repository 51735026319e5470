"""Drives a model divided among ranks, each a thread with its own pool and its own share of the weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from fakes.ranks import World
from helpers.tiny_runner import kv_shape
from torch import Tensor

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions, share_of
from trtdisagg.text.model_files import files_at


def shape_of_rank(dims: ModelDimensions, parallel: Parallel, rank: int, tokens_per_block: int) -> KvShape:
    share = share_of(dims, parallel, rank)
    whole = kv_shape(dims, tokens_per_block)
    return msgspec.structs.replace(whole, num_layers=len(share.layers), num_kv_heads=len(share.kv_heads))


class ParallelDriver:
    """Sequences over all ranks; blocks are handed out shuffled, per dp rank, and hold NaN before they are written."""

    def __init__(self, world: World, runners: list[Runner], pools: list[KvPool]) -> None:
        self.world = world
        self._runners = runners
        self._per_block = pools[0].shape.tokens_per_block
        self._free = [
            random.Random(i).sample(range(pools[0].num_blocks), pools[0].num_blocks)
            for i in range(world.parallel.dp_size)
        ]
        self._tables: list[list[int]] = []
        self._lengths: list[int] = []

    def add(self) -> int:
        """A new sequence, of the next dp rank."""
        self._tables.append([])
        self._lengths.append(0)
        return len(self._tables) - 1

    def chunk(self, sequence: int, tokens: Sequence[int], *, num_logits: int = 1) -> Chunk:
        dp_rank = sequence % self.world.parallel.dp_size
        start, blocks = self._lengths[sequence], self._tables[sequence]
        self._lengths[sequence] += len(tokens)
        while len(blocks) * self._per_block < self._lengths[sequence]:
            blocks.append(self._free[dp_rank].pop())
        return Chunk(list(tokens), start, list(blocks), num_logits, dp_rank)

    def move(self, sequence: int) -> Copy:
        """Go on in a copy of the last block."""
        dp_rank = sequence % self.world.parallel.dp_size
        source, target = self._tables[sequence][-1], self._free[dp_rank].pop()
        self._tables[sequence][-1] = target
        return Copy(source, target, dp_rank)

    def run(self, *chunks: Chunk, copies: Sequence[Copy] = ()) -> Tensor:
        step = Step(list(chunks), list(copies))
        logits, *others = self.world.run(lambda rank: self._runners[rank].run(step))
        assert all(len(other) == 0 for other in others)
        self.world.check_nothing_left()
        return logits


@contextmanager
def drive_ranks(path: Path, parallel: Parallel, **options: Any) -> Iterator[ParallelDriver]:
    """Loaded runners of all ranks over the model at `path`."""
    dims = read_dimensions(files_at(path))

    def load(rank: int, pool: KvPool, ranks: Ranks | None) -> Runner:
        place = {"parallel": parallel, "rank": rank, "ranks": ranks}
        runner = ModelRunner(str(path), dims, dtype="float32", pool=pool, **place, **options)
        runner.load()
        return runner

    with drive_loaded(dims, parallel, load) as driver:
        yield driver


@contextmanager
def drive_loaded(
    dims: ModelDimensions,
    parallel: Parallel,
    load: Callable[[int, KvPool, Ranks | None], Runner],
    *,
    tokens_per_block: int = 8,
    num_blocks: int = 64,
    in_turns: bool = False,
) -> Iterator[ParallelDriver]:
    """
    :param load: makes what computes the steps of a rank.
    :param in_turns: one computes at a time.
    """
    world = World(parallel, in_turns=in_turns)
    with ExitStack() as stack:
        shapes = [shape_of_rank(dims, parallel, rank, tokens_per_block) for rank in range(parallel.num_ranks)]
        pools = [stack.enter_context(KvPool(shape, num_blocks)) for shape in shapes]
        for pool in pools:
            pool.tensor.fill_(float("nan"))
        yield ParallelDriver(world, [load(i, pool, world.ranks(i)) for i, pool in enumerate(pools)], pools)
