"""Servers of several ranks as the processes they are: equal to one rank in their answers, and one in life and death."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, make_spec, started_gang
from helpers.python_api import greedy
from helpers.waiting import DEADLINE_S

from trtdisagg.api import EngineOptions, open_executor
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.reports import Beat, Failed

TP2 = Parallel(tp_size=2)
PP2 = Parallel(pp_partition=[1, 1])
TP2PP2 = Parallel(tp_size=2, pp_partition=[1, 1])
PROMPTS = [[(7 * i + j) % 200 + 1 for j in range(5 + 9 * i)] for i in range(6)]
NUM_TOKENS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    """What one rank answers, each prompt alone."""
    options = EngineOptions(model=str(model), dtype="float32", max_kv_tokens=256, num_threads=1)
    with open_executor(options) as (executor, _):
        return [_answer(executor, i, prompt) for i, prompt in enumerate(PROMPTS)]


def _answer(executor: Any, request_id: int, prompt: list[int]) -> list[int]:
    executor.enqueue_request(greedy(request_id, prompt, max_tokens=NUM_TOKENS))
    tokens: list[int] = []
    while len(tokens) < NUM_TOKENS:
        outputs = executor.await_responses(request_id, timeout_s=DEADLINE_S)
        assert outputs, "no output in time"
        tokens += [token for output in outputs for token in output.new_token_ids]
    return tokens


@contextmanager
def gang_of(model: Path, directory: Path, parallel: Parallel) -> Iterator[list[Engine]]:
    with started_gang(make_spec(model, "context-0", parallel=parallel), directory) as ranks:
        ranks[0].ready()
        assert not (directory / "context-0.gang").exists()  # all have come
        yield ranks


def ask(engine: Engine, prompt: list[int]) -> list[int]:
    answer = engine.post(prompt=prompt, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    tokens: list[int] = answer["choices"][0]["token_ids"]
    return tokens


def leave(engine: Engine, prompt: list[int]) -> None:
    """Begin to stream an answer and hang up."""
    host, port = engine.url.removeprefix("http://").split(":")
    body = f'{{"model": "tiny", "prompt": {prompt}, "max_tokens": 90, "ignore_eos": true, "stream": true}}'
    with socket.create_connection((host, int(port)), DEADLINE_S) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def ends_of(ranks: list[Engine]) -> list[int]:
    return [rank.process.wait(DEADLINE_S) for rank in ranks]


def is_healthy(engine: Engine) -> bool:
    with urllib.request.urlopen(f"{engine.url}/health", timeout=DEADLINE_S) as answer:
        return answer.status == 200


@pytest.mark.parametrize("parallel", [TP2PP2], ids=["tp2pp2"])
def test_a_gang_answers_as_one_rank_does_and_drains_as_one(
    model: Path, tmp_path: Path, expected: list[list[int]], parallel: Parallel
) -> None:
    with gang_of(model, tmp_path, parallel) as ranks, ThreadPoolExecutor(8) as clients:
        assert ask(ranks[0], PROMPTS[0]) == expected[0]
        leaving = [clients.submit(leave, ranks[0], prompt) for prompt in PROMPTS[:2]]
        assert list(clients.map(lambda prompt: ask(ranks[0], prompt), PROMPTS)) == expected
        for left in leaving:
            left.result()
        assert is_healthy(ranks[0])
        last = clients.submit(ask, ranks[0], PROMPTS[1])
        assert last.result() == expected[1]
        for rank in reversed(ranks):  # as the agent does, all at once; the others wait for rank 0
            rank.process.send_signal(signal.SIGTERM)
        assert ends_of(ranks) == [0, 0, 0, 0]


def wait_until_stuck(engine: Engine) -> None:
    """Until beats say, for longer than health's patience, that there is work and no progress."""
    progress, num_alike = -1, 0
    while num_alike < 7:
        beat = engine.report(Beat)
        num_alike = num_alike + 1 if beat.is_working and beat.progress == progress else 0
        progress = beat.progress


def test_a_frozen_rank_shows_and_a_killed_one_ends_the_others_and_is_named(
    model: Path, tmp_path: Path, expected: list[list[int]]
) -> None:
    with gang_of(model, tmp_path, TP2) as ranks, ThreadPoolExecutor(1) as clients:
        ranks[1].process.send_signal(signal.SIGSTOP)
        asking = clients.submit(ask, ranks[0], PROMPTS[2])
        wait_until_stuck(ranks[0])
        with pytest.raises(urllib.error.HTTPError, match="503"):
            is_healthy(ranks[0])
        ranks[1].process.send_signal(signal.SIGCONT)
        assert asking.result() == expected[2]
        assert is_healthy(ranks[0])
        ranks[1].process.kill()
        failed = ranks[0].report(Failed)
        assert failed == Failed(message="rank 1 of context-0 has ended")
        assert ends_of(ranks) == [1, -signal.SIGKILL]


def test_without_rank_0_the_others_end(model: Path, tmp_path: Path) -> None:
    with gang_of(model, tmp_path, PP2) as ranks:
        os.kill(ranks[0].process.pid, signal.SIGKILL)
        assert ends_of(ranks) == [-signal.SIGKILL, 1]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0", "rank-1"]


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_an_executor_of_a_program_starts_its_ranks_and_ends_with_them(
    model: Path, tmp_path: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = children()
    temporary = tmp_path / ("long" * 20)  # too long for the address of a socket
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    options = EngineOptions(
        model=str(model),
        dtype="float32",
        max_kv_tokens=256,
        num_threads=1,
        tensor_parallel_size=2,
        transports=["local"],
    )
    with open_executor(options, secret=b"secret") as (executor, _):
        [rank_1] = children() - others
        directory = Path(rank_1.cmdline()[-1]).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert b"secret" not in Path(f"/proc/{rank_1.pid}/cmdline").read_bytes()
        assert _answer(executor, 1, PROMPTS[1]) == expected[1]
        rank_1.kill()
        executor.enqueue_request(greedy(2, PROMPTS[2]))
        outputs: list[Any] = []
        while not outputs:
            outputs = executor.await_responses(2, timeout_s=DEADLINE_S)
        assert (outputs[-1].finish_reason, outputs[-1].error) == (
            "error",
            "The engine is broken: rank 1 of executor has ended",
        )
        assert "rank 1 of executor has ended" in str(executor.health())
    assert children() == others
    assert not directory.exists()


def test_an_executor_whose_rank_cannot_start_does_not_open(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = children()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    options = EngineOptions(model=str(model), dtype="float32", max_kv_tokens=256, pipeline_parallel_size=2)
    with pytest.raises(StartupError, match="rank 1 has ended with exit code 1"), open_executor(options):
        pass
    assert children() == others


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor_parallel_size": 3}, "4 attention heads cannot be divided by tensor_parallel_size 3"),
        ({"pipeline_parallel_size": 3}, "has 2 layers"),
        ({"tensor_parallel_size": 0}, "1 or more"),
        ({"moe_expert_parallel_size": 2, "tensor_parallel_size": 2}, "it has no experts"),
        ({"device": "cuda", "device_ids": [0], "tensor_parallel_size": 2}, "2 CUDA devices, one for each rank"),
    ],
)
def test_a_division_without_meaning_is_refused_before_anything_starts(
    model: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words), open_executor(EngineOptions(model=str(model), **changes)):
        pass


def test_every_rank_that_ends_is_named(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """While they compute: some of them wait for others, and none for ever."""
    if not request.config.getoption("--soak"):
        pytest.skip("starts 16 processes: with --soak")
    for number in range(1, 4):
        directory = tmp_path / str(number)
        directory.mkdir()
        with gang_of(model, directory, TP2PP2) as ranks, ThreadPoolExecutor(1) as clients:
            asking = clients.submit(leave, ranks[0], PROMPTS[0])
            asking.result()
            ranks[number].process.kill()
            failed = ranks[0].report(Failed)
            assert failed.message.startswith(f"rank {number} of context-0 has ended")
            assert ends_of(ranks)[0] == 1
