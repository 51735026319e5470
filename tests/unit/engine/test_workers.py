"""The extension's threads do each task once, show that they get on, and sleep when there is nothing to do."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from trtdisagg.cache.native import extension

csrc = extension()
pytestmark = pytest.mark.skipif(csrc is None, reason="the C++ extension is not built")


class Doubling:
    """A product with twice the identity, shared out among threads."""

    def __init__(self, num_threads: int) -> None:
        assert csrc is not None
        self.workers: Any = csrc.Workers(num_threads)
        self._matrix = csrc.Matrix(torch.eye(512) * 2, None, None, self.workers)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.full_like(x, float("nan"))
        self._matrix.run(x.data_ptr(), out.data_ptr(), x.shape[0])
        return out


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_task_is_done(num_threads: int, num_rounds: int) -> None:
    double, x = Doubling(num_threads), torch.randn(3, 512)
    for _ in range(100 * num_rounds):
        assert torch.equal(double(x), 2 * x)


def test_ticks_while_it_computes() -> None:
    double = Doubling(2)
    before = double.workers.num_ticks
    double(torch.randn(1, 512))
    assert double.workers.num_ticks > before


def test_idle_threads_sleep() -> None:
    Doubling(2)(torch.randn(1, 512))
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1


def test_several_callers_take_turns() -> None:
    double, x = Doubling(2), torch.randn(2, 512)
    results: list[bool] = []

    def call() -> None:
        results.extend(torch.equal(double(x), 2 * x) for _ in range(50))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for c in callers:
        c.start()
    for c in callers:
        c.join(30)
    assert results == [True] * 150
