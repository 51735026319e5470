"""What goes on in the event loop beside the requests, so that it shows how the loop and the engine are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine

from trtdisagg.engine.progress import Progress

log = logging.getLogger(__name__)

TURN_S = 0.25


@contextlib.asynccontextmanager
async def turning(turns: Progress) -> AsyncIterator[None]:
    """Show, until the end of the block, that the event loop turns."""

    async def turn() -> None:
        while True:
            turns.tick()
            await asyncio.sleep(TURN_S)

    async with beside(turn()):
        yield


@contextlib.asynccontextmanager
async def saying(health: Callable[[], str | None]) -> AsyncIterator[None]:
    """Tell the log, until the end of the block, when the engine gets stuck and when it goes on."""

    async def say() -> None:
        was_well = True
        while True:
            reason = health()
            if was_well != (reason is None):
                log.log(logging.ERROR if reason else logging.INFO, "%s", reason or "the engine goes on")
            was_well = reason is None
            await asyncio.sleep(TURN_S)

    async with beside(say()):
        yield


@contextlib.asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do something until the end of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
