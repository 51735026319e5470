"""Waiting for what cannot be interrupted: a copy in a worker thread, a clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


async def in_thread(threads: Executor, work: Callable[..., T], *args: object) -> T:
    """Call blocking work and wait it out."""
    future = asyncio.get_running_loop().run_in_executor(threads, work, *args)
    await wait_out(future)
    return await future
