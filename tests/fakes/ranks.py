"""The ranks of a server as threads of one process: what one gives, the others take, at barriers with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from trtdisagg.protocol.parallel import Parallel

T = TypeVar("T")
DEADLINE_S = 60.0


class _Stage:
    """Where the ranks of a stage lay down what they give."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=DEADLINE_S)
        self.given: list[Tensor] = [torch.empty(0)] * size


class World:
    """All ranks of one server.

    :param in_turns: one computes at a time, until it waits for another.
    """

    def __init__(self, parallel: Parallel, *, in_turns: bool = False) -> None:
        self.parallel = parallel
        self._turn = threading.Lock() if in_turns else None
        self.stages = [_Stage(parallel.tp_size) for _ in range(parallel.pp_size)]
        self.passed: list[SimpleQueue[Tensor | None]] = [SimpleQueue() for _ in range(parallel.num_ranks)]
        """What each rank is handed by one before it."""
        self.last: SimpleQueue[Tensor | None] = SimpleQueue()

    def ranks(self, rank: int) -> FakeRanks | None:
        """As an engine gets them; None: there is one rank only."""
        return FakeRanks(self, rank) if self.parallel.num_ranks > 1 else None

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Do something on every rank at once; when one fails, the others do not wait for it."""

        def guarded(rank: int) -> T:
            try:
                with self._turn or nullcontext():
                    return work(rank)
            except BaseException:
                self._end()
                raise

        with ThreadPoolExecutor(self.parallel.num_ranks) as threads:
            futures = [threads.submit(guarded, rank) for rank in range(self.parallel.num_ranks)]
        errors = [e for future in futures if (e := future.exception()) is not None]
        for e in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
            raise e
        return [future.result() for future in futures]

    @contextmanager
    def others_turn(self) -> Iterator[None]:
        """While one waits."""
        if self._turn is None:
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def _end(self) -> None:
        """Nobody is to wait for a rank that has failed."""
        for stage in self.stages:
            stage.barrier.abort()
        for queue in (*self.passed, self.last):
            queue.put(None)

    def check_nothing_left(self) -> None:
        """What was passed on was taken over."""
        assert all(queue.empty() for queue in [*self.passed, self.last])


class FakeRanks:
    """The others, as one rank sees them (see `engine.ranks.Ranks`)."""

    def __init__(self, world: World, rank: int) -> None:
        self.parallel = world.parallel
        self.rank = rank
        self._world = world
        self._stage = world.stages[world.parallel.pp_rank(rank)]
        self._tp_rank = world.parallel.tp_rank(rank)

    def add_up(self, x: Tensor) -> None:
        x.copy_(torch.stack(self._exchange(x)).sum(0))

    def gather(self, x: Tensor, num_rows: list[int]) -> Tensor:
        parts = self._exchange(x)
        assert [len(part) for part in parts] == num_rows
        return torch.cat(parts)

    def pass_on(self, x: Tensor) -> None:
        self._world.passed[self.rank + self.parallel.tp_size].put(_checked(x).clone())

    def take_over(self, x: Tensor) -> None:
        self._take(x, self._world.passed[self.rank])

    def to_first(self, x: Tensor) -> None:
        assert self._tp_rank == 0
        if self.rank == 0:
            self._take(x, self._world.last)
        else:
            self._world.last.put(_checked(x).clone())

    def _exchange(self, x: Tensor) -> list[Tensor]:
        """What all ranks of the stage give; nobody takes away what another still reads."""
        self._stage.given[self._tp_rank] = _checked(x).clone()
        with self._world.others_turn():
            self._stage.barrier.wait()
            given = list(self._stage.given)
            self._stage.barrier.wait()
        return given

    def _take(self, x: Tensor, queue: SimpleQueue[Tensor | None]) -> None:
        with self._world.others_turn():
            tensor = queue.get(timeout=DEADLINE_S)
        if tensor is None:
            raise threading.BrokenBarrierError
        assert tensor.shape == x.shape
        _checked(x).copy_(tensor)


def _checked(x: Tensor) -> Tensor:
    assert x.is_contiguous()
    assert len(x) > 0 or x.ndim == 2
    return x
