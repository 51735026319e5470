"""Real executors with a small model, orchestrated: the same tokens as of one, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import tiny_model
from helpers.python_api import LONG_S, all_of, answer, greedy, tokens_of

from trtdisagg.api import DisaggOrchestrator, EngineOptions, Opened, open_executor
from trtdisagg.errors import ConfigError, StartupError, UnavailableError

PROMPTS = [[3 + i, 7, 11 + i, 5, 2, 9, 4] for i in range(6)]
CORES = sorted(os.sched_getaffinity(0))

needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="executors need cores of their own: two")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    model = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    return EngineOptions(model=str(model), dtype="float32", max_kv_tokens=256, tokens_per_block=4)


@pytest.fixture(scope="module")
def alone(options: EngineOptions) -> list[list[int]]:
    """What one executor answers to each prompt."""
    with open_executor(options) as (executor, _):
        return [answer(executor, greedy(i, prompt)) for i, prompt in enumerate(PROMPTS)]


class Executors:
    """Opens executors as an orchestrator wants it, and keeps hold of them."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.closed: list[Opened] = []

    @contextmanager
    def open(self, options: EngineOptions, **settings: Any) -> Iterator[Opened]:
        with open_executor(options, **settings) as opened:
            self.opened.append(opened)
            yield opened
            self.closed.append(opened)


@contextmanager
def orchestrated(options: EngineOptions, opener: Callable[..., Any] = open_executor) -> Iterator[DisaggOrchestrator]:
    with DisaggOrchestrator(
        options,
        context_device_ids=[CORES[:1]],
        generation_device_ids=[CORES[1:2]],
        open_executor=opener,
    ) as orchestrator:
        yield orchestrator


@needs_two_cores
def test_the_tokens_of_one_executor(options: EngineOptions, alone: list[list[int]]) -> None:
    executors = Executors()
    with orchestrated(options, executors.open) as orchestrator:
        for i, prompt in enumerate(PROMPTS):
            orchestrator.enqueue_request(greedy(100 + i, prompt))
        answers = [tokens_of(all_of(orchestrator, 100 + i)) for i in range(len(PROMPTS))]
        context, generation = (opened.executor.stats() for opened in executors.opened)
        assert generation.num_transfers_total == len(PROMPTS)
        assert generation.num_transfer_failures_total == 0
        assert (context.num_requests_total, generation.num_requests_total) == (len(PROMPTS), len(PROMPTS))
        assert orchestrator.tokenizer.encode("a")
    assert answers == alone
    assert executors.closed == executors.opened[::-1], "a context executor lives as long as those that read its KV"


@needs_two_cores
def test_cancelled_and_gone_on(options: EngineOptions, alone: list[list[int]]) -> None:
    with orchestrated(options) as orchestrator:
        orchestrator.enqueue_request(greedy(1, PROMPTS[0], max_tokens=200))
        assert orchestrator.await_responses(1, timeout_s=LONG_S)
        orchestrator.cancel_request(1)
        assert all_of(orchestrator, 1)[-1].finish_reason == "cancelled"
        assert answer(orchestrator, greedy(1, PROMPTS[0])) == alone[0]


@needs_two_cores
def test_a_context_executor_that_died(options: EngineOptions) -> None:
    executors = Executors()
    with orchestrated(options, executors.open) as orchestrator:
        executors.opened[0].executor.shutdown()
        with pytest.raises(UnavailableError, match="context executor 0"):
            orchestrator.enqueue_request(greedy(1, PROMPTS[0]))


@needs_two_cores
def test_an_executor_that_cannot_be_opened(options: EngineOptions) -> None:
    """Those that were opened before it are closed."""
    executors = Executors()

    @contextmanager
    def open_one(options: EngineOptions, **settings: Any) -> Iterator[Opened]:
        if executors.opened:
            raise StartupError("no memory")
        with executors.open(options, **settings) as opened:
            try:
                yield opened
            finally:
                executors.closed.append(opened)

    with pytest.raises(StartupError, match="no memory"), orchestrated(options, open_one):
        pass
    assert executors.closed == executors.opened


@pytest.mark.parametrize(
    ("context", "generation", "words"),
    [
        ([[0], [1]], [[1]], "device 1 is named for 2"),
        ([[0]], [], "generation_device_ids is empty"),
        ([[0, 1]], [[2]], "as many cores"),
    ],
)
def test_devices_that_do_not_do(
    options: EngineOptions, context: list[list[int]], generation: list[list[int]], words: str
) -> None:
    orchestrator = DisaggOrchestrator(options, context_device_ids=context, generation_device_ids=generation)
    with pytest.raises(ConfigError, match=words), orchestrator:
        pass
