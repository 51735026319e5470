"""The proxy's source of servers that others look after: what a store lists becomes members of the roster.

    of ours     its agent vouches for it as long as the store can be asked; while it cannot, /health decides
    foreign     nobody vouches: routed to once /health is well and it has said which model it serves

What the roster knows from elsewhere (the agent's own servers stand in etcd, too) is not taken twice, nor taken when
only its key is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.members.health import Judgement
from trtdisagg.proxy.members.probe import Prober
from trtdisagg.registry.members import Roster
from trtdisagg.registry.records import Listed, apart

SOURCE = "registry"
LOOK_AGAIN_S = 0.5
"""Between two looks at what the roster knows from elsewhere."""

_LONG_AGO = -1.0
"""Until when a set holds that cannot be renewed: it counts as stale."""

ListedIn = Callable[[Mapping[str, str]], tuple[dict[str, Listed], list[str]]]

logger = logging.getLogger(__name__)


class Pace(msgspec.Struct, frozen=True):
    """How servers are looked at."""

    interval_s: float = 1.0
    timeout_s: float = 2.0


class RegistrySource:
    """
    :param name: of the source.
    :param listed_in: reads what stands in the store.
    """

    def __init__(
        self, roster: Roster, prober: Prober, listed_in: ListedIn, *, name: str = SOURCE, pace: Pace | None = None
    ) -> None:
        self._name = name
        self._roster = roster
        self._prober = prober
        self._listed_in = listed_in
        self._pace = pace or Pace()
        self._listed: dict[str, Listed] = {}
        self._found: dict[str, list[Member]] = {}
        self._watches: dict[str, tuple[Listed, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._elsewhere: set[str] = set()
        """Incarnations that another source has ever told of."""
        self._problems: list[str] = []
        self._away: str | None = None
        self._published: tuple[list[Member], bool] = [], False

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._converge()
            while True:
                self._publish()
                await asyncio.sleep(LOOK_AGAIN_S)

    def take(self, entries: Mapping[str, str]) -> None:
        """Everything that stands in the store now."""
        if self._away is not None:
            logger.info("the registry is back")
            self._away = None
        self._listed, problems = self._listed_in(entries)
        for problem in problems:
            if problem not in self._problems:
                logger.warning("a registration that cannot be read: %s", problem)
        self._problems = problems
        self._converge()

    def store_away(self, why: str) -> None:
        """The store cannot be asked: what is known goes on."""
        if self._away is None:
            logger.warning("the registry is away, going on with the last %d servers: %s", len(self._listed), why)
        self._away = why
        self._publish()

    # --- looking ----------------------------------------------------------------------------------------------------

    def _converge(self) -> None:
        """A task for each server that is listed, as it is listed."""
        if self._tasks is None:
            return
        for key, (listed, watch) in list(self._watches.items()):
            if self._listed.get(key) != listed:
                watch.cancel()
                del self._watches[key], self._found[key]
        for key, listed in self._listed.items():
            if key not in self._watches:
                self._found[key] = [listed.member] if listed.member else []
                self._watches[key] = listed, self._tasks.create_task(self._watch(key, listed))
        self._publish()

    async def _watch(self, key: str, listed: Listed) -> None:
        judgement = Judgement(up=listed.member is not None)
        while True:
            if self._away is not None or listed.member is None or not judgement.up:
                judgement = judgement.after(await self._prober.look(listed.server.url, self._pace.timeout_s))
            await self._judge(key, listed, up=judgement.up)
            await asyncio.sleep(self._pace.interval_s)

    async def _judge(self, key: str, listed: Listed, *, up: bool) -> None:
        if not up:
            found = []
        elif listed.member is not None:
            found = [listed.member]
        else:
            found = self._found[key] or await self._prober.describe(listed.server)
        if found != self._found[key]:
            logger.info("%s at %s is %s", listed.server.name, listed.server.url, "up" if found else "down")
            self._found[key] = found
            self._publish()

    # --- telling ----------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        others = self._roster.apart_from(self._name)
        self._elsewhere |= {m.incarnation for m in others if m.incarnation}
        urls = {m.url for m in others}
        mine = [m for members in self._found.values() for m in members if self._is_new(m, urls)]
        told = apart(mine, others)
        state = told, self._away is not None
        if state != self._published:
            self._published = state
            self._roster.replace(self._name, told, until=_LONG_AGO if self._away is not None else None)

    def _is_new(self, member: Member, urls: set[str]) -> bool:
        return member.url not in urls and member.incarnation not in self._elsewhere
