"""The stream of statuses: what watchers see, and what it costs when there are none."""

from __future__ import annotations

import contextlib

import anyio
import msgspec
import pytest
from helpers.statuses import BUSY

from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor import status_feed
from trtdisagg.supervisor.status_feed import PAUSE_S, StatusFeed

pytestmark = pytest.mark.anyio


class Source:
    def __init__(self) -> None:
        self.num_made = 0

    def __call__(self) -> ClusterStatus:
        self.num_made += 1
        return msgspec.structs.replace(BUSY, up_s=float(self.num_made))


def up_s(line: bytes) -> float:
    assert line.endswith(b"}\n")
    return msgspec.json.decode(line, type=ClusterStatus).up_s


async def test_nothing_is_made_while_nobody_watches() -> None:
    source = Source()
    feed = StatusFeed(source)
    for _ in range(10):
        feed.touch()
    feed.close()
    assert source.num_made == 0


async def test_that_of_now_then_changes_and_many_changes_are_one() -> None:
    source = Source()
    feed = StatusFeed(source)
    with anyio.fail_after(60):
        async with contextlib.aclosing(feed.follow()) as lines:
            assert up_s(await anext(lines)) == 1
            for _ in range(10):
                feed.touch()
            started = anyio.current_time()
            assert up_s(await anext(lines)) == 2
            assert anyio.current_time() - started >= PAUSE_S * 0.9
            with anyio.move_on_after(2 * PAUSE_S) as waiting:
                await anext(lines)
            assert waiting.cancelled_caught, "nothing has changed"


async def test_watchers_share_what_is_made() -> None:
    source = Source()
    feed = StatusFeed(source)
    seen: list[list[float]] = [[], [], []]

    async def watch(into: list[float]) -> None:
        async for line in feed.follow():
            into.append(up_s(line))
            if len(into) == 1 and all(seen):
                feed.touch()
            if len(into) == 2 and all(len(s) == 2 for s in seen):
                feed.close()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for into in seen:
                tasks.start_soon(watch, into)
    assert seen == [[1, 2, 3]] * 3
    assert source.num_made == 3


async def test_the_last_word_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_feed, "PAUSE_S", 1000.0)
    feed = StatusFeed(Source())
    with anyio.fail_after(60):
        lines = feed.follow()
        await anext(lines)
        feed.close()
        assert [up_s(line) async for line in lines] == [2]
