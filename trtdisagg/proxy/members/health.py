"""The proxy's own eyes: servers with fixed addresses, which nobody else looks after.

/health twice a second; at first and after each absence, who they are. A server that refuses is out at once. One that is
silent may only be busy: it is out after the second time, which is less than 3 s after its last sign of life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from trtdisagg.protocol.control import Member, Need
from trtdisagg.protocol.proxy_spec import UpstreamServer
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.members.probe import Outcome, Prober
from trtdisagg.registry.members import Roster

INTERVAL_S = 0.5
TIMEOUT_S = 1.0
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
        self._prober = Prober(pool)
        self._roster = roster
        self._servers = servers
        self._unseen = {server.name for server in servers}
        self._found: dict[str, list[Member]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for server in self._servers:
                tasks.create_task(self._watch(server))

    async def _watch(self, server: UpstreamServer) -> None:
        judgement = Judgement()
        while True:
            outcome = await self._prober.look(server.url, TIMEOUT_S)
            judgement = judgement.after(outcome)
            if not judgement.up:
                self._set(server, [])
            elif server.name not in self._found:
                self._set(server, await self._prober.describe(server))
            if outcome != "silent":
                await asyncio.sleep(INTERVAL_S)

    def _set(self, server: UpstreamServer, members: list[Member]) -> None:
        is_first = server.name in self._unseen
        self._unseen.discard(server.name)
        if members != self._found.get(server.name, []):
            logger.info("%s at %s is %s", server.name, server.url, "up" if members else "down")
        elif not is_first:
            return
        self._found.pop(server.name, None)
        if members:
            self._found[server.name] = members
        if not self._unseen:  # the first word is about all of them
            found = [m for members in self._found.values() for m in members]
            self._roster.replace(SOURCE, found, needs=needs_of(self._servers, found))


def needs_of(servers: Iterable[UpstreamServer], found: Iterable[Member]) -> dict[str, list[Need]]:
    """What each model needs, as far as fixed addresses tell: a server of each role that is listed for it."""
    models = {s.model for s in servers if s.model} | {m.model for m in found}
    return {model: [need for need in ("context", "generation") if _listed(servers, model, need)] for model in models}


def _listed(servers: Iterable[UpstreamServer], model: str, need: Need) -> bool:
    return any(s.role in (need, "both") for s in servers if s.model in (None, model))
