"""Work that a user may stop, and look at while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

LOOK_S = 0.2


async def unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event, look: Callable[[], None]) -> None:
    """Until it is done, or has been cancelled because of the event.

    :param look: called a few times a second, and at the end.
    """
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        while not task.done() and not stop.is_set():
            look()
            await asyncio.wait((task, stopped), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        look()
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.wait((task, stopped))
    if not task.cancelled():
        task.result()
