"""Drives a model runner by hand: sequences that grow in chunks, over block tables in random order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.spec import Dtype, Quantization
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.model_files import files_at


def kv_shape(dims: ModelDimensions, tokens_per_block: int, dtype: Dtype = "float32") -> KvShape:
    return KvShape(
        model=dims.fingerprint,
        dtype=dtype,
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        tokens_per_block=tokens_per_block,
    )


class Driver:
    """Sequences over one runner. Blocks are handed out shuffled and hold NaN before they are written."""

    def __init__(self, runner: ModelRunner, pool: KvPool, seed: int = 0) -> None:
        self._runner = runner
        self._tokens_per_block = pool.shape.tokens_per_block
        self._free = list(range(pool.num_blocks))
        random.Random(seed).shuffle(self._free)
        self._blocks: list[list[int]] = []
        self._lengths: list[int] = []
        pool.tensor.fill_(float("nan"))

    def add(self) -> int:
        """A new sequence."""
        self._blocks.append([])
        self._lengths.append(0)
        return len(self._blocks) - 1

    def step(self, *work: tuple[int, Sequence[int]]) -> Tensor:
        """Compute the next tokens of some sequences in one step; a row of logits for each."""
        return self.run(*(self.chunk(sequence, tokens) for sequence, tokens in work))

    def run(self, *chunks: Chunk) -> Tensor:
        return self._runner.run(Step(list(chunks)))

    def chunk(self, sequence: int, tokens: Sequence[int], *, num_logits: int = 1) -> Chunk:
        start, blocks = self._lengths[sequence], self._blocks[sequence]
        self._lengths[sequence] += len(tokens)
        while len(blocks) * self._tokens_per_block < self._lengths[sequence]:
            blocks.append(self._free.pop())
        return Chunk(list(tokens), start, list(blocks), num_logits)


@contextmanager
def drive(
    path: Path,
    *,
    tokens_per_block: int = 8,
    num_blocks: int = 64,
    dtype: Dtype = "float32",
    quantization: Quantization = "none",
    num_threads: int = 2,
) -> Iterator[Driver]:
    """A loaded runner over the model at `path`."""
    dims = read_dimensions(files_at(path))
    with KvPool(kv_shape(dims, tokens_per_block, dtype), num_blocks) as pool:
        runner = ModelRunner(
            str(path), dims, dtype=dtype, quantization=quantization, pool=pool, num_threads=num_threads
        )
        runner.load()
        yield Driver(runner, pool)
