"""The proxy's own eyes: servers with fixed addresses, which nobody else looks after, and servers in doubt.

    fixed addresses   /health every second; at first and after each absence, who they are
    in doubt          /health five times a second, until it is well or its source takes it back

A server that refuses is out at once. One that is silent may only be busy: it is out after the second time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from trtdisagg.protocol.control import Member, Need
from trtdisagg.protocol.spec import UpstreamServer
from trtdisagg.proxy.pool import Pool
from trtdisagg.proxy.probe import Outcome, Prober
from trtdisagg.registry.members import Roster

INTERVAL_S = 1.0
DOUBT_INTERVAL_S = 0.2
DOUBT_TIMEOUT_S = 2.0
MAX_SILENT = 2
SOURCE = "fixed"

logger = logging.getLogger(__name__)


class Judgement(msgspec.Struct, frozen=True):
    """Whether a server may be routed to, after what was seen of it."""

    up: bool = False
    num_silent: int = 0

    def after(self, outcome: Outcome) -> Judgement:
        if outcome == "well":
            return Judgement(up=True)
        if outcome == "refused":
            return Judgement(up=False)
        num_silent = self.num_silent + 1
        return Judgement(up=self.up and num_silent < MAX_SILENT, num_silent=num_silent)


class Health:
    """Keeps the roster true about these servers.

    :param servers: those with fixed addresses.
    """

    def __init__(self, pool: Pool, roster: Roster, servers: Sequence[UpstreamServer]) -> None:
        self._pool = pool
        self._prober = Prober(pool)
        self._roster = roster
        self._servers = servers
        self._found: dict[str, list[Member]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        self._publish()
        async with asyncio.TaskGroup() as tasks:
            for server in self._servers:
                tasks.create_task(self._watch(server))
            tasks.create_task(self._settle_doubts())

    async def _watch(self, server: UpstreamServer) -> None:
        judgement = Judgement()
        while True:
            judgement = judgement.after(await self._prober.look(server.url))
            if not judgement.up:
                self._set(server, [])
            elif server.name not in self._found:
                self._set(server, await self._prober.describe(server))
            await asyncio.sleep(INTERVAL_S)

    def _set(self, server: UpstreamServer, members: list[Member]) -> None:
        if members == self._found.get(server.name, []):
            return
        logger.info("%s at %s is %s", server.name, server.url, "up" if members else "down")
        self._found.pop(server.name, None)
        if members:
            self._found[server.name] = members
        self._publish()

    def _publish(self) -> None:
        if self._servers:
            found = [m for members in self._found.values() for m in members]
            self._roster.replace(SOURCE, found, needs=needs_of(self._servers, found))

    async def _settle_doubts(self) -> None:
        while True:
            await asyncio.gather(*(self._settle(member) for member in self._roster.doubted))
            self._pool.close_old()
            await asyncio.sleep(DOUBT_INTERVAL_S)

    async def _settle(self, member: Member) -> None:
        if await self._prober.look(member.url, DOUBT_TIMEOUT_S) == "well":
            self._roster.trust(member)


def needs_of(servers: Iterable[UpstreamServer], found: Iterable[Member]) -> dict[str, list[Need]]:
    """What each model needs, as far as fixed addresses tell: a server of each role that is listed for it."""
    models = {s.model for s in servers if s.model} | {m.model for m in found}
    return {model: [need for need in ("context", "generation") if _listed(servers, model, need)] for model in models}


def _listed(servers: Iterable[UpstreamServer], model: str, need: Need) -> bool:
    return any(s.role in (need, "both") for s in servers if s.model in (None, model))
