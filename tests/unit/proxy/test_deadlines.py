"""Deadlines that share one timer: they end blocks as asyncio.timeout would, and only their own."""

from __future__ import annotations

import asyncio
import math

import pytest

from trtdisagg.proxy.deadlines import Deadlines

pytestmark = pytest.mark.anyio


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_block_that_takes_too_long_ends() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError):
        async with deadlines.by(now() + 0.05):
            await asyncio.sleep(60)
    await asyncio.sleep(0)


async def test_a_block_in_time_and_one_without_a_deadline_are_left_alone() -> None:
    deadlines = Deadlines()
    async with deadlines.by(now() + 60), deadlines.by(math.inf):
        await asyncio.sleep(0.25)


async def test_a_deadline_can_be_lifted_and_set_again() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        async with deadlines.by(now() + 0.05) as deadline:
            deadline.lift()
            await asyncio.sleep(0.25)
            deadline.due = now()
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await wait()


async def test_the_inner_of_two_blocks_ends_alone() -> None:
    deadlines = Deadlines()
    async with deadlines.by(now() + 60):
        with pytest.raises(TimeoutError):
            async with deadlines.by(now() + 0.05):
                await asyncio.sleep(60)
        await asyncio.sleep(0)


async def test_a_cancel_by_somebody_else_stays_one() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        async with deadlines.by(now() + 60):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_that_swallows_its_end_is_over_all_the_same() -> None:
    deadlines = Deadlines()
    async with deadlines.by(now() + 0.05) as deadline:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(60)
    assert deadline.due == math.inf
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_the_timer_rests_when_nothing_is_set() -> None:
    deadlines = Deadlines()
    async with deadlines.by(now() + 60):
        pass
    await asyncio.sleep(0.25)
    assert deadlines._timer is None


async def test_a_block_can_be_ended_with_an_error_and_only_while_it_runs() -> None:
    deadline = Deadlines().by(math.inf)

    async def wait() -> None:
        async with deadline:
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    deadline.end(ValueError("why"))
    deadline.end(ValueError("once more"))
    with pytest.raises(ValueError, match="why"):
        await waiting
    later = Deadlines().by(math.inf)
    async with later:
        pass
    later.end(ValueError("too late"))
    await asyncio.sleep(0)
