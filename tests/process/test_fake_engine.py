"""The fake engine does what the tests that use it rely on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, FakeEngine

from trtdisagg.protocol.commands import SwitchRole
from trtdisagg.protocol.reports import Beat


@contextmanager
def started(tmp_path: Path, *flags: str) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path, "context-0", flags)
    try:
        assert engine.wait_ready().role == "context"
        yield engine
    finally:
        engine.close()


def beat(engine: FakeEngine) -> Beat:
    while not isinstance(report := engine.next_report(), Beat):
        pass
    return report


def get(engine: FakeEngine, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{engine.url}{path}", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def ask(engine: FakeEngine, **fields: object) -> http.client.HTTPResponse:
    body = json.dumps({"model": MODEL, "prompt": "hello", **fields}).encode()
    answer: http.client.HTTPResponse
    answer = urllib.request.urlopen(f"http://{engine.url}/v1/completions", body, timeout=DEADLINE_S)
    return answer


def test_switches_role(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        for role in ("generation", "both", "context"):
            engine.command(SwitchRole(role=role))
            assert engine.wait_ready().role == role
            assert json.loads(get(engine, "/server_info")[1])["role"] == role


def test_stuck_shows_as_work_without_progress(tmp_path: Path) -> None:
    with started(tmp_path) as engine:
        assert not beat(engine).is_working
        assert get(engine, "/health")[0] == 200
        engine.ask("stick", {})
        while not (first := beat(engine)).is_working:
            pass
        later = [beat(engine) for _ in range(5)]
        assert {(b.progress, b.is_working) for b in later} == {(first.progress, True)}
        status, text = get(engine, "/health")
        assert (status, "no progress" in text) == (503, True)
        engine.ask("unstick", {})
        assert get(engine, "/health")[0] == 200


def test_progress_while_it_answers_and_counts_latencies(tmp_path: Path) -> None:
    with started(tmp_path, "--token-delay-ms", "100") as engine:
        with ask(engine, max_tokens=10) as answer:
            answer.read()
        while not (first := beat(engine)).is_working:
            pass
        working = [first]
        while (latest := beat(engine)).is_working:
            working.append(latest)
        assert len({b.progress for b in working}) == len(working)
        while sum((stats := beat(engine).stats).per_token_counts) < 9:
            pass
        assert sum(stats.first_token_counts) == 1


def test_canary_fails_and_all_else_is_well(tmp_path: Path) -> None:
    with started(tmp_path, "--canary-fails") as engine:
        assert get(engine, "/health")[0] == 200
        assert get(engine, "/health_generate")[0] == 503
        assert engine.state()["canaries"] == 1
    with started(tmp_path) as engine:
        assert get(engine, "/health_generate")[0] == 200


def test_second_signal_ends_streams_with_an_error(tmp_path: Path) -> None:
    with started(tmp_path, "--hold-generation") as engine, ask(engine, stream=True, max_tokens=3) as answer:
        engine.process.send_signal(signal.SIGTERM)
        while get(engine, "/health")[0] != 503:
            pass
        engine.process.send_signal(signal.SIGTERM)
        assert b'"error"' in answer.read()
        assert engine.process.wait(DEADLINE_S) == 128 + signal.SIGTERM


def test_slow_drain_takes_its_time(tmp_path: Path) -> None:
    with started(tmp_path, "--slow-drain", "3600") as engine:
        engine.process.send_signal(signal.SIGTERM)
        while get(engine, "/health")[0] != 503:
            pass
        beat(engine)
        assert engine.process.poll() is None
    with started(tmp_path, "--slow-drain", "0.2") as engine:
        assert engine.stop() == 0


@pytest.mark.parametrize(("flag", "same_group"), [("--fork", True), ("--spawn-grandchild", False)])
def test_has_a_child_of_its_own(tmp_path: Path, flag: str, same_group: bool) -> None:
    with started(tmp_path, flag) as engine:
        pid = engine.state()["grandchild"]
        try:
            assert (os.getpgid(pid) == os.getpgid(engine.process.pid)) is same_group
        finally:
            os.kill(pid, signal.SIGKILL)


def test_is_light(tmp_path: Path) -> None:
    """What a process that only starts has mapped: no library beyond Python's own and msgspec."""
    with started(tmp_path) as engine:
        maps = Path(f"/proc/{engine.process.pid}/maps").read_text()
    assert "msgspec" in maps
    assert not [name for name in ("aiohttp", "uvloop", "torch", "tokenizers", "numpy") if name in maps]


@pytest.mark.parametrize("num_tokens", [0, 1, 10, 11, 100, 101, 1234])
def test_it_knows_how_much_it_has_said(num_tokens: int) -> None:
    assert words.num_chars(num_tokens) == len(words.answer("any", num_tokens))
