"""Plans anew for a cluster that runs: who is there stays where it is, who comes gets what is free."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping, Sequence

import anyio
import anyio.to_thread
from msgspec.structs import replace

from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor import wish as wishes
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.running import Running
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.survey import survey
from trtdisagg.supervisor.wish import Wish


class Replanning:
    """
    :param wish: the file that the cluster was made of; None: there is none.
    :ivar lock: held from the look at what runs until the new plan counts: two who scale at once would plan for the same
        places.
    """

    def __init__(self, agent: Running, wish: Wish | None) -> None:
        self.lock = anyio.Lock()
        self._agent = agent
        self._wish = wish

    @property
    def has_file(self) -> bool:
        return self._wish is not None

    @property
    def wish(self) -> Wish:
        """
        :raises ConfigError: when there is no file.
        """
        if self._wish is None:
            raise ConfigError("this was started without a cluster file, so there is nothing to scale or to apply")
        return self._wish

    @property
    def groups(self) -> list[str]:
        """What can be scaled: roles, with several models those of each."""
        models = {parse_name(c.name).model for c in wishes.servers(self._agent.state)}
        prefixes = [f"{model}." if model else "" for model in sorted(models)] or [""]
        return [f"{prefix}{role}" for prefix in prefixes for role in ("context", "generation", "both")]

    async def plan_for(self, names: Iterable[str], moved: Container[str] = ()) -> None:
        """Plan for servers of these names, in the roles they have now; the plan counts at once.

        :param moved: of these, those that shall not be where they are.
        :raises ConfigError, StartupError: there is no room for them.
        """
        loaded = self.wish.loaded
        self._take(loaded, await self._survey(loaded, wishes.numbers(names), wishes.roles(self._agent.state), moved))

    async def roles_changed(self) -> None:
        """Plan again for who is there; without a file there is nothing to plan with."""
        if self._wish is not None:
            async with self.lock:
                await self.plan_for([c.name for c in wishes.servers(self._agent.state)])

    async def read(self, overrides: Sequence[str] | None) -> tuple[Wish, Plan]:
        """Read the file again, and plan for what it says; the plan counts when it is `accept`ed.

        :param overrides: in place of what it says; None: those it was read with.
        :raises ConfigError, StartupError: it is wrong, or there is no room.
        """
        kept = self.wish.overrides if overrides is None else list(overrides)
        loaded = await anyio.to_thread.run_sync(functools.partial(load, self.wish.loaded.path, kept))
        return Wish(loaded=loaded, overrides=kept), await self._survey(loaded, None, {})

    def accept(self, wish: Wish, plan: Plan) -> None:
        """
        :raises StartupError: the proxy's address cannot be had; then nothing has changed.
        """
        self._take(wish.loaded, plan)
        self._wish = wish

    def _take(self, loaded: Loaded, plan: Plan) -> None:
        makes_secret = self._agent.plan.makes_secret
        self._agent.replan(replace(plan, fingerprint=loaded.fingerprint, makes_secret=makes_secret))

    async def _survey(
        self,
        loaded: Loaded,
        numbers: Mapping[str, Sequence[int]] | None,
        roles: Mapping[str, Role],
        moved: Container[str] = (),
    ) -> Plan:
        there = [child for child in wishes.servers(self._agent.state) if child.name not in moved]
        look = functools.partial(
            survey,
            loaded.cluster,
            name=loaded.name,
            file=loaded.path,
            numbers=numbers,
            keep={child.name: self._agent.plan_of(child.name) for child in there},
            roles=roles,
            nodes_of=self._agent.nodes_of,
            pids={child.name: child.pids for child in there if child.pids},
        )
        return await anyio.to_thread.run_sync(look)
