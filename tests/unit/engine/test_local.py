"""Executors within this process, opened as a program opens them: alone, and two of them with KV in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import msgspec
import pytest
from helpers import tiny_model
from helpers.python_api import all_of, answer, greedy, tokens_of

from trtdisagg.api import EngineOptions, Executor, open_executor
from trtdisagg.errors import ConfigError, RequestError, StartupError

PROMPT = [7, 3, 11, 5, 2, 9, 4, 8, 6]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    model = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    return EngineOptions(
        model=str(model), dtype="float32", num_threads=1, max_kv_tokens=256, tokens_per_block=4, transports=["local"]
    )


@pytest.fixture(scope="module")
def executor(options: EngineOptions) -> Iterator[Executor]:
    with open_executor(options) as opened:
        yield opened.executor


def test_what_is_left_out_is_decided(options: EngineOptions) -> None:
    stages: list[str] = []
    with open_executor(msgspec.structs.replace(options, num_threads=None), stage=stages.append) as opened:
        assert len(answer(opened.executor, greedy(1, PROMPT))) == 12
        assert opened.tokenizer.encode("a")
    assert "weights" in stages


def test_threads_stay_on_their_cores(options: EngineOptions) -> None:
    ours = os.sched_getaffinity(0)
    core = max(ours)
    before = set(threading.enumerate())
    with open_executor(msgspec.structs.replace(options, device_ids=[core])):
        new = [thread for thread in threading.enumerate() if thread not in before]
        assert {thread.name for thread in new} >= {"executor", "engine"}
        assert all(os.sched_getaffinity(thread.native_id or 0) == {core} for thread in new)
    assert os.sched_getaffinity(0) == ours
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float16"}, "dtype"),
        ({"device_ids": []}, "device_ids"),
        ({"device_ids": [4096]}, "no core 4096"),
        ({"device": "cuda", "device_ids": [0, 1]}, "one CUDA device"),
        ({"max_seq_len": 1_000_000}, "max_seq_len"),
    ],
)
def test_an_option_without_meaning(options: EngineOptions, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words), open_executor(msgspec.structs.replace(options, **changes)):
        pass


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(StartupError, match="no model `nowhere`"), open_executor(EngineOptions(model="nowhere")):
        pass


def test_two_executors_give_the_tokens_of_one(options: EngineOptions, executor: Executor) -> None:
    request = greedy(5, PROMPT)
    alone = answer(executor, request)
    with open_executor(options) as context, open_executor(options) as generation:
        context.executor.enqueue_request(msgspec.structs.replace(request, type="context_only"))
        [first] = all_of(context.executor, 5)
        params = first.context_phase_params
        assert params is not None
        assert (params.request_id, params.first_token_ids) == (5, alone[:1])
        generation.executor.enqueue_request(
            msgspec.structs.replace(request, id=77, type="generation_only", context_phase_params=params)
        )
        outputs = all_of(generation.executor, 77)
        assert generation.executor.stats().num_transfers_total == 1
        assert generation.executor.stats().num_prompt_tokens_total == 0
    assert tokens_of(outputs) == alone
    assert outputs[0].new_token_ids[0] == alone[0]


def test_a_context_executor_that_is_gone_is_done_without(options: EngineOptions, executor: Executor) -> None:
    alone = answer(executor, greedy(10, PROMPT))
    with open_executor(options) as context:
        context.executor.enqueue_request(greedy(1, PROMPT, kind="context_only"))
        params = all_of(context.executor, 1)[-1].context_phase_params
    late = msgspec.structs.replace(greedy(11, PROMPT, kind="generation_only"), context_phase_params=params)
    assert answer(executor, late) == alone


def test_an_answer_that_ends_with_its_first_token_has_nothing_to_go_on_with(executor: Executor) -> None:
    executor.enqueue_request(greedy(6, PROMPT, max_tokens=1, kind="context_only"))
    [last] = all_of(executor, 6)
    assert last.finish_reason == "length"
    assert last.context_phase_params is None


def test_context_phase_params_of_a_request_of_another_type(executor: Executor) -> None:
    executor.enqueue_request(greedy(8, PROMPT, kind="context_only"))
    [first] = all_of(executor, 8)
    wrong = msgspec.structs.replace(greedy(9, PROMPT), context_phase_params=first.context_phase_params)
    with pytest.raises(RequestError, match="generation_only"):
        executor.enqueue_request(wrong)
    executor.cancel_request(8)
