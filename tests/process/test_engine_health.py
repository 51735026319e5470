"""True health: what the agent sees of an engine that is busy, slow or stuck. Real process, real HTTP, no model."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from fakes.runner_engine import BLOCK, LONG
from helpers.burst import burst
from helpers.http_face import SPEC
from helpers.serving import REPOSITORY, Child
from helpers.waiting import DEADLINE_S

from trtdisagg.engine.beats import BEAT_S
from trtdisagg.protocol.reports import Beat

pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "runner_engine.py")]
NUM_BURST = 1000
SMALL_QUEUE = msgspec.structs.replace(SPEC, max_queue_size=300)


class Watched:
    """An engine and its beats."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.beats: list[Beat] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.child.reports() as reports:
            for report in reports:
                if isinstance(report, Beat):
                    with self._came:
                        self.beats.append(report)
                        self._came.notify_all()

    async def until(self, holds: Callable[[list[Beat]], object], timeout_s: float = DEADLINE_S) -> None:
        """Wait until this holds of the beats that have come since now."""
        start = len(self.beats)

        def wait() -> bool:
            with self._came:
                return self._came.wait_for(lambda: bool(holds(self.beats[start:])), timeout_s)

        assert await asyncio.to_thread(wait), f"never so of the beats: {self.beats[start:]}"

    @asynccontextmanager
    async def http(self) -> Any:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(f"http://{self.child.url}", timeout=timeout) as session:
            yield session

    def go_on(self) -> None:
        """Let the step, or the event loop, go on."""
        os.kill(self.child.process.pid, signal.SIGUSR2)

    async def ask(self, http: aiohttp.ClientSession, *prompt: int, **fields: Any) -> int:
        body = {"model": "tiny", "prompt": list(prompt), "max_tokens": 4, "ignore_eos": True, **fields}
        async with http.post("/v1/completions", json=body) as answer:
            await answer.read()
            return answer.status

    async def health(self, http: aiohttp.ClientSession, path: str = "/health") -> tuple[int, str]:
        async with http.get(path) as answer:
            return answer.status, await answer.text()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    child = Child(PROGRAM, SMALL_QUEUE, tmp_path_factory.mktemp("engine") / "engine.json")
    try:
        child.wait_ready()
        yield Watched(child)
    finally:
        child.close()


def is_stuck(beats: list[Beat]) -> bool:
    """Whether they say that there is work and no progress, for longer than health's patience."""
    said = {(beat.progress, beat.is_working) for beat in beats[-6:]}
    return len(beats) >= 6 and said == {(beats[-1].progress, True)}


def gets_on(beats: list[Beat]) -> bool:
    return len({beat.progress for beat in beats if beat.is_working}) >= 4


async def test_a_burst_of_a_thousand_loses_no_beat_and_no_request(engine: Watched) -> None:
    before, num_beats = cpu_s(engine), len(engine.beats)
    statuses = await burst(f"http://{engine.child.url}", NUM_BURST)
    computed_s = cpu_s(engine) - before
    await engine.until(bool)
    assert len(engine.beats) - num_beats >= computed_s, (
        "one each half second: of the processor's, if not of the clock's"
    )
    assert sum(statuses.values()) == NUM_BURST
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= SMALL_QUEUE.max_queue_size
    async with engine.http() as http:
        assert await engine.health(http) == (200, '{"status":"ok"}')
        assert (await engine.health(http, "/health_generate"))[0] == 200
        await engine.until(lambda beats: beats and not beats[-1].is_working)
    stats = engine.beats[-1].stats
    assert sum(stats.first_token_counts) >= statuses[200]
    assert sum(stats.per_token_counts) >= statuses[200]


def cpu_s(engine: Watched) -> float:
    times = psutil.Process(engine.child.process.pid).cpu_times()
    return times.user + times.system


async def test_a_long_step_is_not_stuck(engine: Watched) -> None:
    async with engine.http() as http:
        asking = asyncio.create_task(engine.ask(http, LONG))
        await engine.until(gets_on)
        assert not asking.done()
        assert (await engine.health(http))[0] == 200
        engine.go_on()
        assert await asking == 200


async def test_a_step_that_never_ends_is_seen_within_seconds(engine: Watched) -> None:
    async with engine.http() as http:
        asking = asyncio.create_task(engine.ask(http, BLOCK))
        await engine.until(is_stuck)
        for path in ("/health", "/health_generate"):
            status, text = await engine.health(http, path)
            assert (status, "made no progress for" in text) == (503, True)
        assert await engine.ask(http, 9) == 503
        engine.go_on()
        assert await asking == 200
        assert (await engine.health(http))[0] == 200
        await engine.until(lambda beats: beats and not beats[-1].is_working)
    log = engine.child.log.read_text()
    assert "where each thread is" in log
    assert "runner_engine.py" in log


async def test_an_event_loop_that_is_blocked_is_seen(engine: Watched) -> None:
    os.kill(engine.child.process.pid, signal.SIGUSR1)
    await engine.until(is_stuck)
    engine.go_on()
    async with engine.http() as http:
        assert (await engine.health(http))[0] == 200


async def test_a_frozen_process_sends_none(engine: Watched) -> None:
    async def until_there_are_none() -> None:
        while True:  # some may be under way
            await engine.until(bool, timeout_s=4 * BEAT_S)

    pid = engine.child.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(AssertionError, match="never so"):
            await until_there_are_none()
    finally:
        os.kill(pid, signal.SIGCONT)
    await engine.until(lambda beats: len(beats) >= 2)
