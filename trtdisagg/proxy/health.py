"""The proxy's own eyes: servers with fixed addresses, which nobody else looks after, and servers in doubt.

    fixed addresses   /health every second; at first and after each absence, who they are: /server_info of ours,
                      /v1/models of others
    in doubt          /health five times a second, until it is well or its source takes it back

A server that refuses is out at once. One that is silent may only be busy: it is out after the second time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from trtdisagg.protocol.answers import ModelList
from trtdisagg.protocol.control import Member, Need
from trtdisagg.protocol.spec import UpstreamServer
from trtdisagg.proxy.pool import Pool, UnreachableError
from trtdisagg.proxy.upstream import BrokenError
from trtdisagg.registry.members import Roster

INTERVAL_S = 1.0
DOUBT_INTERVAL_S = 0.2
DOUBT_TIMEOUT_S = 2.0
TIMEOUT_S = 5.0
MAX_SILENT = 2
MAX_BODY_BYTES = 1024 * 1024
SOURCE = "fixed"

Outcome = Literal["well", "refused", "silent"]

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
            judgement = judgement.after(await self._look(server.url))
            if not judgement.up:
                self._set(server, [])
            elif server.name not in self._found:
                self._set(server, await self._describe(server))
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
        if await self._look(member.url, DOUBT_TIMEOUT_S) == "well":
            self._roster.trust(member)

    async def _look(self, url: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        try:
            status, _ = await self._get(url, "/health", timeout_s)
        except (UnreachableError, BrokenError):
            return "refused"
        except TimeoutError:
            return "silent"
        return "well" if status == 200 else "refused"

    async def _describe(self, server: UpstreamServer) -> list[Member]:
        """Ask a server who it is; nothing, when it cannot be made out."""
        try:
            _, info = await self._get(server.url, "/server_info")
            if (ours := _decode_member(info)) is not None:
                model = server.model or ours.model
                return [msgspec.structs.replace(ours, name=server.name, role=server.role, url=server.url, model=model)]
            models = [server.model] if server.model else await self._models(server.url)
        except (UnreachableError, BrokenError, TimeoutError, msgspec.DecodeError) as e:
            logger.warning("%s at %s is healthy but does not say what it serves: %s", server.name, server.url, e)
            return []
        return [Member(name=server.name, role=server.role, url=server.url, model=model) for model in models]

    async def _models(self, url: str) -> list[str]:
        _, body = await self._get(url, "/v1/models")
        return [card.id for card in msgspec.json.decode(body, type=ModelList).data]

    async def _get(self, url: str, path: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout_s), self._pool.exchange(url, "GET", path) as (head, connection):
            return head.status, await connection.read(MAX_BODY_BYTES)


def needs_of(servers: Iterable[UpstreamServer], found: Iterable[Member]) -> dict[str, list[Need]]:
    """What each model needs, as far as fixed addresses tell: a server of each role that is listed for it."""
    models = {s.model for s in servers if s.model} | {m.model for m in found}
    return {model: [need for need in ("context", "generation") if _listed(servers, model, need)] for model in models}


def _listed(servers: Iterable[UpstreamServer], model: str, need: Need) -> bool:
    return any(s.role in (need, "both") for s in servers if s.model in (None, model))


def _decode_member(body: bytes) -> Member | None:
    """A server's description of itself, if it is one of ours."""
    try:
        return msgspec.json.decode(body, type=Member)
    except msgspec.DecodeError:
        return None
