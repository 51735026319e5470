"""Waiting for what cannot be interrupted: a copy in a worker thread, a clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


async def wait_out(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, also through cancellation, which is raised then. Its result is not looked at."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as e:
            cancelled = e
    if cancelled is not None:
        raise cancelled


async def in_thread(
    threads: Executor, work: Callable[..., T], *args: object, undo: Callable[[T], None] | None = None
) -> T:
    """Call blocking work and wait it out.

    :param undo: likewise called with the result, when it came too late: we are cancelled.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(threads, work, *args)
    try:
        await wait_out(future)
    except asyncio.CancelledError:
        error = future.exception()  # looked at, whoever waits
        if undo is not None and error is None:
            await wait_out(loop.run_in_executor(threads, undo, future.result()))
        raise
    return await future


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do things at once, and return when none of them goes on: when one fails, the others are cancelled and waited out.

    :return: their results, in order.
    """
    works = list(works)
    if len(works) == 1:
        return [await works[0]]  # without the tasks, which cost more than a small copy
    tasks = [asyncio.create_task(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await wait_out(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        if not task.cancelled() and (error := task.exception()):
            raise error
    return [task.result() for task in tasks]
