"""Moves test blocks over a new link in each way there is, looks at what arrived, and takes the time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import numpy as np
import torch

from trtdisagg.cache.copying import copy_within
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.choice import Figures
from trtdisagg.cache.movers.staged import Read, Staged
from trtdisagg.cache.pool import KvPool, pattern
from trtdisagg.cache.waiting import in_thread
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import TEST_BYTES, Region

_FEW_BYTES = 64
_SMALL_RUN_BYTES = 4096
_REPETITIONS = 5
"""The first of which finds everything cold; the shortest counts."""


class LinkTest:
    """Of one pair of ranks. One at a time in a process, for there is one sink.

    :param theirs: the region of the rank that holds.
    :param read: from theirs into ours.
    """

    def __init__(self, pool: KvPool, theirs: Region, read: Read, threads: Executor) -> None:
        self._pool = pool
        self._theirs = theirs
        self._read = read
        self._threads = threads

    async def of_reads(self) -> Figures:
        """
        :raises HandoverError: when a block does not arrive as it was sent.
        """
        few, whole, small = self._runs(_FEW_BYTES), self._runs(TEST_BYTES), _cut(self._runs(TEST_BYTES))
        latency_s = await _shortest(lambda: self._read(few))
        self._pool.memory[self._sink(TEST_BYTES)].zero_()
        whole_s = await _shortest(lambda: self._read(whole))
        self._check(TEST_BYTES)
        small_s = await _shortest(lambda: self._read(small))
        return Figures(
            latency_s=latency_s,
            read_bytes_s=TEST_BYTES / whole_s,
            descriptor_s=max(0.0, small_s - whole_s) / len(small),
            copy_bytes_s=TEST_BYTES / await _shortest(self._copy),
        )

    async def of_requests(self, staged: Staged) -> float:
        """Seconds that a piece costs beside its bytes."""
        few = self._runs(_FEW_BYTES)
        return await _shortest(lambda: staged.pull(few))

    async def of_pushes(self, staged: Staged, figures: Figures, request_s: float) -> float:
        """Bytes a second that the peer writes.

        :raises HandoverError: when it cannot, or a block does not arrive as it was sent.
        """
        num_bytes = min(TEST_BYTES, staged.piece_bytes)
        runs = self._runs(num_bytes)
        self._pool.memory[self._sink(num_bytes)].zero_()
        whole_s = await _shortest(lambda: staged.push(runs))
        self._check(num_bytes)
        beside_s = request_s + 2 * num_bytes / figures.copy_bytes_s  # packed there, unpacked here
        return num_bytes / max(whole_s - beside_s, whole_s / 10)

    def _runs(self, num_bytes: int) -> Runs:
        return np.array([[self._pool.region.sink_offset, self._theirs.pattern_offset, num_bytes]], np.int64)

    def _sink(self, num_bytes: int) -> slice:
        offset = self._pool.region.sink_offset
        return slice(offset, offset + num_bytes)

    async def _copy(self) -> None:
        region = self._pool.region
        runs = np.array([[region.sink_offset, region.pattern_offset, TEST_BYTES]], np.int64)
        await in_thread(self._threads, copy_within, self._pool.memory, runs)

    def _check(self, num_bytes: int) -> None:
        if not torch.equal(self._pool.memory[self._sink(num_bytes)].cpu(), pattern()[:num_bytes]):
            raise HandoverError("a test block did not arrive as it was sent")


def _cut(runs: Runs) -> Runs:
    """The same bytes in small runs."""
    [[to, from_, num_bytes]] = runs.tolist()
    starts = np.arange(0, num_bytes, _SMALL_RUN_BYTES)
    return np.column_stack((to + starts, from_ + starts, np.full_like(starts, _SMALL_RUN_BYTES)))


async def _shortest(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds of the shortest of a few repetitions."""
    seconds = []
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        await work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
