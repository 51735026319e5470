"""Servers that may be gone: those in doubt, and those that are not routed to any more while legs wait for their answer.

    in doubt          trusted again when /health is well, unless their source takes them back first; who was cut off
                      for failing (breaker.py) is not even asked before its time
    left, awaited     a server that drains answers all the same; one that is silent does not: its legs are given up

Five times a second, for as long as there is such a server. A leg that is given up is asked elsewhere by its relay.
"""

from __future__ import annotations

import asyncio
import logging
import time

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.members.probe import Prober
from trtdisagg.proxy.path.legs import Legs
from trtdisagg.registry.members import Roster

INTERVAL_S = 0.2
TIMEOUT_S = 1.0
MAX_SILENT = 2
"""A server may be too busy for one answer."""

logger = logging.getLogger(__name__)


class Doubts:
    """Looks at them, over the proxy's own connections."""

    def __init__(self, pool: Pool, roster: Roster, legs: Legs) -> None:
        self._pool = pool
        self._prober = Prober(pool)
        self._roster = roster
        self._legs = legs
        self._num_silent: dict[str, int] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            left = [member for member in self._legs.awaited() if not self._roster.is_listed(member)]
            self._num_silent = {m.identity: self._num_silent.get(m.identity, 0) for m in left}
            await asyncio.gather(*map(self._settle, self._roster.doubted), *map(self._listen, left))
            self._pool.close_old()
            await asyncio.sleep(INTERVAL_S)

    async def _settle(self, member: Member) -> None:
        breakers = self._legs.breakers
        if not breakers.may_be_probed(member, time.monotonic()):
            return
        if await self._prober.look(member.url, TIMEOUT_S) == "well":
            breakers.probed(member)
            self._roster.trust(member)

    async def _listen(self, member: Member) -> None:
        if await self._prober.look(member.url, TIMEOUT_S) != "silent":
            self._num_silent[member.identity] = 0
            return
        self._num_silent[member.identity] += 1
        if self._num_silent[member.identity] == MAX_SILENT:
            logger.warning("%s at %s has left and is silent: its requests are asked elsewhere", member.name, member.url)
            self._legs.give_up(member)
            self._num_silent[member.identity] = 0
