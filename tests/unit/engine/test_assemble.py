"""An engine is taken apart in order, whoever is in a hurry."""

from __future__ import annotations

import asyncio
import threading

import pytest

from trtdisagg.engine.assemble import shut_down

pytestmark = pytest.mark.anyio


class SlowExecutor:
    """Its thread is within a step until the test says otherwise."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def shutdown(self) -> None:
        self.has_begun.set()
        assert self.may_end.wait(10)


async def test_memory_is_not_taken_from_under_a_step_by_a_second_signal() -> None:
    executor = SlowExecutor()
    closing = asyncio.create_task(shut_down(executor))  # type: ignore[arg-type]
    assert await asyncio.to_thread(executor.has_begun.wait, 10)
    closing.cancel()
    done, _ = await asyncio.wait([closing], timeout=0.05)
    assert not done
    executor.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(closing, 60)
