"""The access log: what a line says, and what becomes of the file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.records import CONTEXT, OTHER, handed_over, leg, record

from trtdisagg.errors import StartupError
from trtdisagg.proxy.records import access_log as module
from trtdisagg.proxy.records.access_log import AccessLog, Line

pytestmark = pytest.mark.anyio


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_became_of_a_request(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "access.log"))
    with log.opened():
        legs = [*handed_over().legs, leg("generation", OTHER, (100.26, 100.27, 100.3), num_replayed_tokens=7)]
        log.add(handed_over(request_id="abc", client="alice", legs=legs, num_migrations=1))
        log.add(record(model="x" * 1000, error="queue_full"))
    served, refused = lines(tmp_path / "access.log")
    assert tuple(served) == Line.__struct_fields__
    assert served.pop("time")[-1] == "Z"
    assert served == {
        "request_id": "abc",
        "client": "alice",
        "model": "m",
        "route": "/v1/completions",
        "status": 200,
        "error": None,
        "path": "both",
        "servers": ["context-0", "generation-0", "generation-1"],
        "queue_ms": pytest.approx(10),
        "ttft_ms": pytest.approx(200),
        "e2e_ms": pytest.approx(300),
        "num_events": 12,
        "num_retries": 0,
        "num_migrations": 1,
        "num_replayed_tokens": 7,
    }
    assert (refused["status"], refused["error"], refused["queue_ms"], refused["servers"]) == (
        429,
        "queue_full",
        None,
        [],
    )
    assert len(refused["model"]) == 200
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o600


async def test_lines_are_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.001)
    log, path = AccessLog(str(tmp_path / "access.log")), tmp_path / "access.log"
    with log.opened():
        writing = asyncio.create_task(log.run())
        log.add(record(request_id="first"))
        async with asyncio.timeout(60):
            while not lines(path):
                await asyncio.sleep(0.001)
        path.unlink()
        log.add(record(request_id="second"))
        async with asyncio.timeout(60):
            while not path.exists() or not lines(path):
                await asyncio.sleep(0.001)
        writing.cancel()
    assert [line["request_id"] for line in lines(path)] == ["second"], "a file that was taken away is made again"


def test_full_files_are_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1)
    log = AccessLog(str(tmp_path / "access.log"))
    for number in range(6):
        with log.opened():
            log.add(record(request_id=str(number)))
    ids = {path.name: [line["request_id"] for line in lines(path)] for path in tmp_path.iterdir()}
    assert ids == {"access.log.1": ["5"], "access.log.2": ["4"], "access.log.3": ["3"]}


def test_each_worker_has_a_file(tmp_path: Path) -> None:
    for worker in range(2):
        with (log := AccessLog(str(tmp_path / "access.log"), worker)).opened():
            log.add(record())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access-1.log", "access.log"]


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "nowhere" / "access.log"))
    with pytest.raises(StartupError, match=r"access\.log: No such file"), log.opened():
        pass


def test_it_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_LINES", 2)
    with (log := AccessLog(str(tmp_path / "access.log"))).opened():
        for _ in range(5):
            log.add(record())
    assert len(lines(tmp_path / "access.log")) == 2
    assert "3 requests are not in it" in caplog.text


def test_context_is_part_of_a_line_when_it_failed(capfd: pytest.CaptureFixture[str]) -> None:
    with (log := AccessLog("stderr")).opened():
        log.add(record(legs=[leg("context", CONTEXT, (1.0, 0.0, 2.0), "failed")]))
    assert json.loads(capfd.readouterr().err)["servers"] == ["context-0"]
