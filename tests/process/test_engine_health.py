"""True health: what the agent sees of an engine that is busy, slow or stuck. Real process, real HTTP, no model."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from fakes.runner_engine import BLOCK, LONG, LONG_S
from helpers.burst import burst
from helpers.http_face import SPEC
from helpers.serving import REPOSITORY, Child

from trtdisagg.engine.beats import BEAT_S, STUCK_S
from trtdisagg.protocol.reports import Beat

pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "runner_engine.py")]
NUM_BURST = 1000
SMALL_QUEUE = msgspec.structs.replace(SPEC, max_queue_size=300)
DEADLINE_S = 30.0


class Watched:
    """An engine and its beats, with the time when each came."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.beats: list[tuple[float, Beat]] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.child.reports() as reports:
            for report in reports:
                if isinstance(report, Beat):
                    with self._came:
                        self.beats.append((time.monotonic(), report))
                        self._came.notify_all()

    async def next_beats(self, count: int, timeout_s: float = DEADLINE_S) -> list[Beat]:
        """The next so many, all from after now."""
        start = len(self.beats)

        def wait() -> bool:
            with self._came:
                return self._came.wait_for(lambda: len(self.beats) >= start + count, timeout_s)

        assert await asyncio.to_thread(wait), "no beats"
        return [beat for _, beat in self.beats[start : start + count]]

    def longest_gap_s(self, since: float) -> float:
        times = [at for at, _ in self.beats if at >= since]
        return max(b - a for a, b in zip([since, *times], [*times, time.monotonic()], strict=True))

    @asynccontextmanager
    async def http(self) -> Any:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(f"http://{self.child.url}", timeout=timeout) as session:
            yield session

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


async def test_a_burst_of_a_thousand_loses_no_beat_and_no_request(engine: Watched) -> None:
    since = time.monotonic()
    statuses = await burst(f"http://{engine.child.url}", NUM_BURST)
    assert engine.longest_gap_s(since) < STUCK_S
    assert sum(statuses.values()) == NUM_BURST
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= SMALL_QUEUE.max_queue_size
    async with engine.http() as http:
        assert await engine.health(http) == (200, '{"status":"ok"}')
        assert (await engine.health(http, "/health_generate"))[0] == 200
        (beat,) = await engine.next_beats(1)
        assert sum(beat.stats.first_token_counts) >= statuses[200]
        assert sum(beat.stats.per_token_counts) >= statuses[200]


async def test_a_long_step_is_not_stuck(engine: Watched) -> None:
    async with engine.http() as http:
        asking = asyncio.create_task(engine.ask(http, LONG))
        await engine.next_beats(1)
        beats = await engine.next_beats(int(LONG_S / BEAT_S) - 3)
        assert not asking.done()
        assert all(beat.is_working for beat in beats)
        assert len({beat.progress for beat in beats}) == len(beats)
        assert (await engine.health(http))[0] == 200
        assert await asking == 200


async def test_a_step_that_never_ends_is_seen_within_seconds(engine: Watched) -> None:
    async with engine.http() as http:
        asking = asyncio.create_task(engine.ask(http, BLOCK))
        await engine.next_beats(1)
        beats = await engine.next_beats(6)
        assert {(beat.progress, beat.is_working) for beat in beats} == {(beats[0].progress, True)}
        for path in ("/health", "/health_generate"):
            status, text = await engine.health(http, path)
            assert (status, "made no progress for" in text) == (503, True)
        assert await engine.ask(http, 9) == 503
        os.kill(engine.child.process.pid, signal.SIGUSR2)
        assert await asking == 200
        assert (await engine.health(http))[0] == 200
        await engine.next_beats(1)
        assert not (await engine.next_beats(1))[0].is_working
    log = engine.child.log.read_text()
    assert "where each thread is" in log
    assert "runner_engine.py" in log


async def test_an_event_loop_that_is_blocked_is_seen(engine: Watched) -> None:
    os.kill(engine.child.process.pid, signal.SIGUSR1)
    beats = await engine.next_beats(int(LONG_S / BEAT_S))
    blocked = [beat for beat in beats if beat.is_working]
    assert len(blocked) >= 3
    assert len({beat.progress for beat in blocked}) == 1
    async with engine.http() as http:
        assert (await engine.health(http))[0] == 200


async def test_a_frozen_process_sends_none(engine: Watched) -> None:
    await engine.next_beats(1)
    pid = engine.child.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(AssertionError, match="no beats"):
            await engine.next_beats(2, timeout_s=4 * BEAT_S)  # one may have been under way
    finally:
        os.kill(pid, signal.SIGCONT)
    await engine.next_beats(2)
