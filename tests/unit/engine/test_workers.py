"""The extension's threads do each task once, show that they get on, and sleep when there is nothing to do."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from trtdisagg.cache.native import extension
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.rowwise import NativeRowwise

pytestmark = pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")


def rowwise(num_threads: int) -> tuple[Backend, NativeRowwise]:
    backend = Backend(torch.float32, torch.device("cpu"), num_threads)
    backend.open()
    return backend, NativeRowwise(backend)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_each_task_is_done_once(num_threads: int, num_rounds: int) -> None:
    _, ops = rowwise(num_threads)
    x, weight = torch.randn(1000, 64), torch.randn(64)
    for _ in range(50 * num_rounds):
        sums = x.clone()
        ops.norm(sums, weight, 1e-5, x)
        assert torch.equal(sums, x + x)


def test_ticks_while_it_computes() -> None:
    backend, ops = rowwise(2)
    before = backend.workers.num_ticks  # type: ignore[attr-defined]
    ops.norm(torch.randn(1000, 64), torch.randn(64), 1e-5)
    assert backend.workers.num_ticks > before  # type: ignore[attr-defined]


def test_idle_threads_sleep() -> None:
    _, ops = rowwise(3)
    x = torch.randn(1000, 64)
    ops.norm(x, torch.randn(64), 1e-5)
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1


def test_two_callers_take_turns() -> None:
    _, ops = rowwise(2)
    x, weight = torch.randn(2000, 64), torch.randn(64)
    expected = ops.norm(x, weight, 1e-5)
    results: list[bool] = []

    def call() -> None:
        results.extend(torch.equal(ops.norm(x, weight, 1e-5), expected) for _ in range(20))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for c in callers:
        c.start()
    for c in callers:
        c.join(30)
    assert results == [True] * 60
