"""Requests that find no server wait here while one is about to come, instead of being refused.

They wait for a change of the roster, not for a turn: whoever comes first is woken first, and chooses again. How one
chooses is known by route, what comes is known by the roster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.control import Need
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.registry.members import Roster, Snapshot

SETTLE_S = 1.0
"""For a server in doubt to be trusted again, or to be taken back by its source, which may say that another comes."""

Chosen = TypeVar("Chosen")


class Waiting:
    """All requests of this process that wait for a server."""

    def __init__(self, roster: Roster, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._roster = roster
        self._deadlines = deadlines
        self._changed = asyncio.Event()
        self.num_waiting = 0
        roster.watch(self._wake)

    async def choose(
        self, choose: Callable[[Snapshot], Chosen], *, model: str, need: Need = "generation", due: float
    ) -> Chosen:
        """Choose servers, now or when one has come.

        :param choose: raises UnavailableError when there is none.
        :param need: the role without which there is no answer.
        :param due: how long to wait, on the loop's clock.
        :raises UnavailableError: when nothing comes, or not in time.
        """
        settled_by = self._loop.time() + SETTLE_S
        while True:
            snapshot = self._roster.snapshot
            try:
                return choose(snapshot)
            except UnavailableError:
                if need in snapshot.coming.get(model, ()):
                    until = due
                elif need in snapshot.doubted.get(model, ()):
                    until = min(due, settled_by)
                else:
                    raise
                if not await self._change(until):
                    raise

    async def _change(self, until: float) -> bool:
        """Wait for a change of the roster; False: there was none in time."""
        self.num_waiting += 1
        try:
            async with self._deadlines.by(until):
                return await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self.num_waiting -= 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
