"""CUDA graphs for generation: a step of so many sequences, captured once, launched as one.

A decoder's step is some ten kernels a layer, of which many take less time than their launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.cuda.batch import Batch, FixedBatch
from trtdisagg.engine.step import Chunk

Forward = Callable[[Batch, Tensor | None], Tensor]
"""Batch and the hidden states that the stage before gives, if there is one -> logits, or hidden states for the next."""


def batch_sizes(max_batch_size: int) -> list[int]:
    """Sizes to capture: dense where a row more costs most, and the largest; a batch is filled up to the next."""
    sizes = {1, 2, 4, *range(8, 64, 8), *range(64, max_batch_size, 32), max_batch_size}
    return sorted(size for size in sizes if 0 < size <= max_batch_size)


class Graph:
    """A captured step of `size` sequences with a token each. What ranks add up within it is captured with it.

    :param hidden: [size, width], where the hidden states will be; None: this is the first stage.
    """

    def __init__(
        self,
        forward: Forward,
        pool: KvPool,
        size: int,
        max_blocks: int,
        *,
        hidden: Tensor | None,
        memory: tuple[int, int] | None,
    ) -> None:
        self._hidden = hidden
        self._per_block = pool.shape.tokens_per_block
        self._batch = FixedBatch(size, max_blocks, pool.device)
        warming = torch.cuda.Stream()
        warming.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warming):  # what is set up at the first call may not be captured
            forward(self._batch.batch, hidden)
        torch.cuda.current_stream().wait_stream(warming)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, as NCCL's that looks after what runs, may ask the device something meanwhile.
        with torch.cuda.graph(self._graph, pool=memory, capture_error_mode="thread_local"):
            self._out = forward(self._batch.batch, hidden)

    @property
    def memory(self) -> tuple[int, int]:
        """Names the memory that is used while it runs, which graphs that never run at once may share."""
        memory: tuple[int, int] = self._graph.pool()
        return memory

    def run(self, chunks: Sequence[Chunk], *, tokens: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """
        :param tokens: those of the chunks, where they are on the device.
        :param hidden: [len(chunks), width]
        :return: [len(chunks), vocab] or, but for the last stage, width.
        """
        self._batch.fill(chunks, self._per_block, tokens)
        if self._hidden is not None and hidden is not None:
            self._hidden[: len(chunks)] = hidden
        self._graph.replay()
        return self._out[: len(chunks)].clone()


class Graphs:
    """
    :param max_batch_size: the largest batch to capture; 0: none.
    :param max_blocks: of one sequence.
    :param hidden: makes room for hidden states of so many tokens; None in the first stage.
    """

    def __init__(
        self,
        forward: Forward,
        pool: KvPool,
        max_batch_size: int,
        max_blocks: int,
        hidden: Callable[[int], Tensor | None],
    ) -> None:
        self._forward = forward
        self._hidden = hidden
        self._pool = pool
        self._max_blocks = max_blocks
        self._sizes = batch_sizes(max_batch_size) if pool.device.type == "cuda" else []
        self._graphs: dict[int, Graph] = {}

    def capture(self, tick: Callable[[], None]) -> None:
        """
        :param tick: called after each.
        """
        memory = None
        for size in reversed(self._sizes):  # the largest first: the others find its memory
            hidden = self._hidden(size)
            graph = Graph(self._forward, self._pool, size, self._max_blocks, hidden=hidden, memory=memory)
            self._graphs[size], memory = graph, graph.memory
            tick()

    def fitting(self, num_sequences: int) -> Graph | None:
        """The smallest graph that holds so many; None: there is none."""
        size = next((size for size in self._sizes if size >= num_sequences), None)
        return self._graphs.get(size) if size is not None else None
