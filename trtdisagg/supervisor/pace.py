"""A common pace for tasks that have nothing urgent to do: they wake together, so the process wakes once."""

from __future__ import annotations

import anyio


class Pace:
    """Lets tasks go on at every beat of a clock.

    :param interval_s: between two beats.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._beat = anyio.Event()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await anyio.sleep(self._interval_s)
            self._beat.set()
            self._beat = anyio.Event()

    async def wait(self) -> None:
        """Return at the next beat."""
        await self._beat.wait()
