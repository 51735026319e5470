"""The verbs of a running cluster: scale, drain, remove, restart, switch, and to apply the file as it is now.

Each makes wishes of a request, as events, and waits until the state shows that they came true. What they do meanwhile
is decided elsewhere. One after the other: two who scale at once would plan for the same places.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import ConfigError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ApplyRequest, Done, ScaleRequest, ServersRequest, SwitchRequest
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor import wish as wishes
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.events import Added, Event, LeaveAsked, Noticed, RollAsked, Then
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.server_plan import ChildPlan
from trtdisagg.supervisor.state import PROXY, ClusterState
from trtdisagg.supervisor.survey import survey
from trtdisagg.supervisor.wish import Wish

ALL = "all"
_MARGIN_S = 5.0


class Running(Protocol):
    """What the verbs need of an agent."""

    state: ClusterState
    plan: Plan

    def handle(self, event: Event) -> None: ...
    def replan(self, plan: Plan) -> None: ...
    def plan_of(self, name: str) -> ChildPlan: ...
    async def until(self, is_so: Callable[[ClusterState], bool], deadline: float) -> bool: ...


class Operations:
    """
    :param wish: the file that the cluster was made of; None: there is none.
    """

    def __init__(self, agent: Running, wish: Wish | None) -> None:
        self._agent = agent
        self._wish = wish
        self._planning = anyio.Lock()

    # --- servers by name --------------------------------------------------------------------------------------------

    async def drain(self, request: ServersRequest) -> Done:
        """Let servers finish what they have and end; they stay in the table, stopped.

        :raises ConfigError: there is no such server.
        :raises StartupError: a deadline passed.
        """
        return await self._leave(request, "stop", "drained")

    async def remove(self, request: ServersRequest) -> Done:
        """The same, and forget them.

        :raises ConfigError, StartupError: as `drain`.
        """
        return await self._leave(request, "gone", "removed")

    async def restart(self, request: ServersRequest) -> Done:
        """Start servers anew, also those that were stopped or have failed.

        :raises ConfigError: there is no such server.
        :raises StartupError: one did not come back in time.
        """
        names = self._names(request.names, with_proxy=True)
        before = {name: self._child(name).incarnation for name in names}
        if request.rolling:
            self._handle(RollAsked, names=names, timeout_s=self._timeout_s(request.timeout_s), reason="restarts")
        else:
            for name in names:
                self._ask(name, "restart", request.timeout_s, "restarts")
        if request.wait:
            await self._until_back(names, before, request.timeout_s, in_turn=request.rolling)
        return Done(lines=[f"{name} is restarted" for name in names])

    async def switch(self, request: SwitchRequest) -> Done:
        """Let a server finish what it has and go on in another role, with its weights as they are.

        :raises ConfigError: there is no such server, or it would leave its role empty.
        :raises StartupError: it is not ready, or did not get free in time.
        """
        child = self._child(request.name)
        if child.role == PROXY:
            raise ConfigError("the proxy has no other role")
        if child.role == request.role:
            return Done(lines=[f"{child.name} is a {request.role} server already"])
        if child.phase != "ready":
            raise StartupError(f"{child.name} is {child.phase}; only a server that is ready can be switched")
        if request.role == "context":
            self._check_generates_without([child.name])
        self._ask(child.name, "switch", request.timeout_s, f"becomes a {request.role} server", role=request.role)
        if request.wait:
            await self._until_switched(child, request)
        await self._replan()
        return Done(lines=[f"{child.name} is a {request.role} server now"])

    async def _until_switched(self, child: Child, request: SwitchRequest) -> None:
        def is_over(state: ClusterState) -> bool:
            there = state.children.get(child.name)
            return there is None or there.leaving is None

        await self._agent.until(is_over, self._deadline(request.timeout_s, 1))
        there = self._agent.state.children.get(child.name)
        if there is None or there.role != request.role:
            raise StartupError(f"{child.name} did not get free within the deadline and stays a {child.role} server")

    async def _leave(self, request: ServersRequest, then: Then, word: str) -> Done:
        names = self._names(request.names, with_proxy=False)
        self._check_generates_without(names)
        for name in names:
            self._ask(name, then, request.timeout_s, "drains")
        if request.wait:
            await self._until_gone(names, request.timeout_s)
        return Done(lines=[f"{name} is {word}" for name in names])

    # --- how many ---------------------------------------------------------------------------------------------------

    async def scale(self, request: ScaleRequest) -> Done:
        """Have as many servers of a role as asked for.

        :raises ConfigError: there is no such role, or nothing would generate.
        :raises StartupError: there is no room for more, or one did not get ready.
        """
        async with self._planning:
            scaling = wishes.scaling(self._agent.state, request.counts, self._groups())
            self._check_generates_without(scaling.removed, num_new=len(scaling.new) + len(scaling.revived))
            names = [c.name for c in wishes.servers(self._agent.state) if c.name not in scaling.removed]
            await self._plan(self._wished().loaded, [*names, *scaling.new])
        self._add([*scaling.new, *scaling.revived], after=[])
        for name in scaling.removed:
            self._ask(name, "gone", request.timeout_s, "drains")
        if request.wait:
            await self._until_back([*scaling.new, *scaling.revived], {}, request.timeout_s)
            await self._until_gone(scaling.removed, request.timeout_s)
        added = [f"{name} is added" for name in [*scaling.new, *scaling.revived]]
        return Done(lines=added + [f"{name} is removed" for name in scaling.removed] or ["nothing to do"])

    # --- the file ---------------------------------------------------------------------------------------------------

    async def apply(self, request: ApplyRequest) -> Done:
        """Read the file again, and make what runs what it says: what needs no restart at once, the rest in turn.

        :raises ConfigError: the file is wrong; then all goes on as it was.
        :raises StartupError: there is no room, or a server did not come back.
        """
        wish = self._wished()
        async with self._planning:
            read = functools.partial(load, wish.loaded.path, overrides=request.overrides or wish.overrides)
            loaded = await anyio.to_thread.run_sync(read)
            before, state = self._agent.plan, self._agent.state
            plan = await self._survey(loaded, None, {})
            difference = Difference.of(wish.loaded, loaded, state, self._agent.plan_of, plan)
            if request.dry_run or not difference.lines:
                return Done(lines=difference.lines or ["nothing to do"])
            self._wish = Wish(loaded=loaded, overrides=request.overrides or wish.overrides)
            self._agent.replan(replace(plan, fingerprint=loaded.fingerprint, makes_secret=before.makes_secret))
        for line in difference.lines:
            self._handle(Noticed, text=line)
        incarnations = {name: child.incarnation for name, child in state.children.items()}
        self._converge(difference, request)
        if request.wait:
            await self._until_back(difference.added, {}, request.timeout_s)
            await self._until_back(difference.changed, incarnations, request.timeout_s, in_turn=True)
            await self._until_gone(difference.removed, request.timeout_s)
        return Done(lines=difference.lines)

    async def reload(self) -> None:
        """Apply the file, as SIGHUP asks for; what is wrong with it is said, and all goes on."""
        try:
            await self.apply(ApplyRequest())
        except TrtdisaggError as e:
            self._handle(Noticed, text=f"the file is not applied: {e}")

    def _converge(self, difference: Difference, request: ApplyRequest) -> None:
        for name in difference.removed:
            self._ask(name, "gone", request.timeout_s, "drains")
        self._add(difference.added, after=difference.removed)
        if difference.changed:
            timeout_s = self._timeout_s(request.timeout_s)
            self._handle(RollAsked, names=difference.changed, timeout_s=timeout_s, reason="restarts with new settings")

    # --- planning ---------------------------------------------------------------------------------------------------

    def _wished(self) -> Wish:
        if self._wish is None:
            raise ConfigError("this was started without a cluster file, so there is nothing to scale or to apply")
        return self._wish

    async def _replan(self) -> None:
        """Plan anew for the servers there are, in the roles they have."""
        if self._wish is not None:
            async with self._planning:
                await self._plan(self._wish.loaded, [c.name for c in wishes.servers(self._agent.state)])

    async def _plan(self, loaded: Loaded, names: Iterable[str]) -> None:
        plan = await self._survey(loaded, wishes.numbers(names), wishes.roles(self._agent.state))
        self._agent.replan(replace(plan, fingerprint=loaded.fingerprint, makes_secret=self._agent.plan.makes_secret))

    async def _survey(
        self, loaded: Loaded, numbers: Mapping[str, Sequence[int]] | None, roles: Mapping[str, Role]
    ) -> Plan:
        keep = {c.name: self._agent.plan_of(c.name) for c in wishes.servers(self._agent.state)}
        look = functools.partial(
            survey, loaded.cluster, name=loaded.name, file=loaded.path, numbers=numbers, keep=keep, roles=roles
        )
        return await anyio.to_thread.run_sync(look)

    def _groups(self) -> list[str]:
        models = {name.rpartition(".")[0] for name in map(_group, self._agent.state.children) if name}
        prefixes = sorted(f"{model}." if model else "" for model in models) or [""]
        return [f"{prefix}{role}" for prefix in prefixes for role in ("context", "generation", "both")]

    # --- wishes -----------------------------------------------------------------------------------------------------

    def _handle(self, kind: Callable[..., Event], **fields: object) -> None:
        self._agent.handle(kind(at=time.monotonic(), **fields))

    def _ask(self, name: str, then: Then, timeout_s: float | None, reason: str, **more: object) -> None:
        self._handle(LeaveAsked, name=name, then=then, timeout_s=self._timeout_s(timeout_s), reason=reason, **more)

    def _add(self, names: Iterable[str], after: Sequence[str]) -> None:
        for name in names:
            plan = self._agent.plan_of(name)
            before = [other for other in after if set(self._agent.plan_of(other).gpus) & set(plan.gpus)]
            self._handle(Added, name=name, role=plan.role, after=before)

    def _timeout_s(self, asked_s: float | None) -> float:
        return self._agent.plan.supervision.drain_timeout_s if asked_s is None else asked_s

    # --- looking ----------------------------------------------------------------------------------------------------

    def _child(self, name: str) -> Child:
        child = self._agent.state.children.get(name)
        if child is None:
            there = ", ".join(self._agent.state.children)
            raise ConfigError(f"there is no server {name!r}; there are: {there}")
        return child

    def _names(self, names: Sequence[str], *, with_proxy: bool) -> list[str]:
        if ALL not in names:
            found = [self._child(name) for name in dict.fromkeys(names)]
        else:
            found = [*wishes.servers(self._agent.state)]
            found += [c for c in self._agent.state.children.values() if with_proxy and c.name == PROXY]
        for child in found:
            if child.role == PROXY and (not with_proxy or child.name != PROXY):
                raise ConfigError(f"{child.name} goes with the cluster: `trtdisagg down` ends it")
        return [child.name for child in found]

    def _check_generates_without(self, names: Sequence[str], *, num_new: int = 0) -> None:
        """
        :raises ConfigError: when no server would be left that generates.
        """
        left = [c for c in wishes.servers(self._agent.state) if c.stays and c.name not in names]
        if names and not num_new and not any(c.role in ("generation", "both") for c in left):
            raise ConfigError("then no server would be left that generates; `trtdisagg down` ends the cluster")

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _deadline(self, timeout_s: float | None, num_servers: int) -> float:
        rules = self._agent.plan.supervision
        each_s = self._timeout_s(timeout_s) + 2 * rules.kill_timeout_s + rules.start_timeout_s
        return time.monotonic() + each_s * max(1, num_servers) + _MARGIN_S

    async def _until_gone(self, names: Sequence[str], timeout_s: float | None) -> None:
        def are_gone(state: ClusterState) -> bool:
            return not any(name in state.children and state.children[name].lives for name in names)

        if not await self._agent.until(are_gone, self._deadline(timeout_s, 1)):
            raise StartupError(f"{', '.join(names)}: not gone within the deadline; see `trtdisagg status`")

    async def _until_back(
        self, names: Sequence[str], before: Mapping[str, str | None], timeout_s: float | None, *, in_turn: bool = False
    ) -> None:
        def are_back(state: ClusterState) -> bool:
            return all(_is_over(state, name, before.get(name)) for name in names)

        await self._agent.until(are_back, self._deadline(timeout_s, len(names) if in_turn else 1))
        for name in names:
            child = self._agent.state.children.get(name)
            if child is None or not self._agent.state.is_up(child):
                why = f"{child.phase}: {child.reason}" if child else "gone"
                raise StartupError(f"{name} is not ready ({why})")


def _is_over(state: ClusterState, name: str, before: str | None) -> bool:
    """Whether another incarnation is up, or there will be none."""
    child = state.children.get(name)
    if child is None or child.phase == "failed" or state.stop is not None:
        return True
    return child.lives and child.incarnation != before and state.is_up(child)


def _group(name: str) -> str:
    return name.rpartition("-")[0]


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """Between what runs and what a file says."""

    lines: list[str]
    """For people."""
    added: list[str]
    removed: list[str]
    changed: list[str]
    """To be restarted, one after the other."""

    @staticmethod
    def of(
        old: Loaded, new: Loaded, state: ClusterState, plan_of: Callable[[str], ChildPlan], plan: Plan
    ) -> Difference:
        """
        :param plan: made of the new file.
        """
        there = {c.name: c for c in [*wishes.servers(state), *(c for n, c in state.children.items() if n == PROXY)]}
        planned = {child.name: child for child in plan.children}
        rests = [name for name, child in there.items() if not child.stays or child.phase == "failed"]
        added = [name for name in planned if name not in there or name in rests]
        removed = [name for name in there if name not in planned]
        changed = [
            name
            for name, child in planned.items()
            if name in there and name not in rests and _differs(child, plan_of(name), there[name])
        ]
        lines = wishes.changes(msgspec.to_builtins(old.cluster), msgspec.to_builtins(new.cluster))
        lines += [f"+ {name}" for name in added] + [f"- {name}" for name in removed]
        return Difference(
            lines=[*lines, *(f"~ {name}: restarts" for name in changed)],
            added=added,
            removed=removed,
            changed=changed,
        )


def _differs(planned: ChildPlan, now: ChildPlan, child: Child) -> bool:
    return planned.settings != now.settings or planned.role != child.role
