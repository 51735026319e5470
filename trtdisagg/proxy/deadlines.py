"""Deadlines of many requests, looked at ten times a second by one timer.

Like asyncio.timeout, but a deadline costs no timer of its own: almost none is ever reached, so what counts is what it
costs to set and to lift one. It fires up to `INTERVAL_S` late.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Protocol, Self

INTERVAL_S = 0.1


class Timed(Protocol):
    """Whatever has a deadline.

    :ivar due: on the loop's clock; may be changed at any time; infinite: none for now.
    """

    due: float

    def pass_by(self) -> None:
        """The deadline is over."""


class Deadlines:
    """All deadlines that are set in this process."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._set: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def by(self, due: float) -> Deadline:
        """Make a deadline for an `async with` block.

        :param due: on the loop's clock; infinite: none for now.
        """
        return Deadline(self, due)

    def add(self, deadline: Timed) -> None:
        self._set.add(deadline)
        if self._timer is None:
            self._timer = self.loop.call_later(INTERVAL_S, self._look)

    def remove(self, deadline: Timed) -> None:
        self._set.discard(deadline)

    def _look(self) -> None:
        now = self.loop.time()
        for deadline in [d for d in self._set if d.due <= now]:
            deadline.pass_by()
        self._timer = self.loop.call_later(INTERVAL_S, self._look) if self._set else None


class Deadline:
    """A block that must end in time: otherwise it is cancelled and raises TimeoutError. It can be ended before."""

    def __init__(self, deadlines: Deadlines, due: float) -> None:
        self._deadlines = deadlines
        self._task: asyncio.Task[object] | None = None
        self._num_cancels = 0
        self._error: Exception | None = None
        """What the block raises, when it was cancelled from here."""
        self.due = due

    def lift(self) -> None:
        """There is no deadline any more."""
        self.due = math.inf

    async def __aenter__(self) -> Self:
        self._task = task = asyncio.current_task(self._deadlines.loop)
        assert task is not None
        self._num_cancels = task.cancelling()
        self._deadlines.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.remove(self)
        task, self._task = self._task, None
        assert task is not None
        # A cancel that somebody else asked for, too, goes on as one.
        if self._error and task.uncancel() <= self._num_cancels and kind is asyncio.CancelledError:
            raise self._error from error

    def pass_by(self) -> None:
        self.end(TimeoutError())

    def end(self, error: Exception) -> None:
        """Cancel the block, if it runs; it then raises this error."""
        self.lift()
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()
