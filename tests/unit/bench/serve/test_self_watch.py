"""The client notices that it cannot keep up."""

from __future__ import annotations

import asyncio
import time

import pytest

from trtdisagg.bench.serve.self_watch import INTERVAL_S, MAX_LATE_MS, SelfWatch

pytestmark = pytest.mark.anyio


async def looks(watch: SelfWatch, number: int) -> None:
    async with asyncio.timeout(60):
        while len(watch.late_s) < number:
            await asyncio.sleep(INTERVAL_S)


async def test_a_loop_that_is_held_up_is_seen() -> None:
    with SelfWatch() as watch:
        await looks(watch, 1)
        end = time.monotonic() + 4 * MAX_LATE_MS / 1000
        while time.monotonic() < end:
            pass
        await looks(watch, 3)
    health = watch.health()
    assert max(watch.late_s) * 1000 >= MAX_LATE_MS
    assert 0 < health.busy <= 1.0


async def test_conversations_that_begin_late_are_told() -> None:
    with SelfWatch() as watch:
        watch.begin_late_s += [0.0] * 50 + [0.1] * 50
    assert watch.health().begin_late_ms == pytest.approx(100)
    assert any("went out up to 100 ms late" in words for words in watch.health().complaints())
