"""The verbs of a running cluster: scale, drain, remove, restart, switch, and to apply the file as it is now.

Each makes wishes of a request, as events, and waits until the state shows that they came true. What they do meanwhile
is decided elsewhere. One after the other: two who scale at once would plan for the same places.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence

from trtdisagg.errors import ConfigError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ApplyRequest, Done, ScaleRequest, ServersRequest, SwitchRequest
from trtdisagg.supervisor import meant
from trtdisagg.supervisor import wish as wishes
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.difference import Difference
from trtdisagg.supervisor.events import Added, Event, LeaveAsked, Noticed, RollAsked, Then
from trtdisagg.supervisor.patience import Patience
from trtdisagg.supervisor.replanning import Replanning
from trtdisagg.supervisor.running import Running
from trtdisagg.supervisor.state import PROXY, ClusterState, is_replaced
from trtdisagg.supervisor.wish import Wish


class Operations:
    """
    :param wish: the file that the cluster was made of; None: there is none.
    """

    def __init__(self, agent: Running, wish: Wish | None) -> None:
        self._agent = agent
        self._replanning = Replanning(agent, wish)
        self._patience = Patience(agent)

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

        :raises ConfigError: there is no such server, or no place for one whose node is gone.
        :raises StartupError: one did not come back in time.
        """
        meant.check_stays_up(self._agent.state)
        names = meant.several(self._agent.state, request.names, with_proxy=True)
        if homeless := self._homeless(names):
            async with self._replanning.lock:
                everybody = [c.name for c in wishes.servers(self._agent.state)]
                await self._replanning.plan_for(everybody, moved=homeless)
        before = {name: meant.one(self._agent.state, name).incarnation for name in names}
        if request.rolling:
            self._handle(RollAsked, names=names, timeout_s=self._timeout_s(request.timeout_s), reason="restarts")
        else:
            for name in names:
                self._ask(name, "restart", request.timeout_s, "restarts")
        if request.wait:
            await self._patience.until_back(names, before, request.timeout_s, in_turn=request.rolling)
            replaced = [c.name for c in self._agent.state.proxies if is_replaced(c)]
            await self._patience.until_gone(replaced, request.timeout_s)
        return _done(request, names, "is restarted", "is being restarted")

    async def switch(self, request: SwitchRequest) -> Done:
        """Let a server finish what it has and go on in another role, with its weights as they are.

        :raises ConfigError: there is no such server, or it would leave its role empty.
        :raises StartupError: it is not ready, or did not get free in time.
        """
        meant.check_stays_up(self._agent.state)
        child = meant.one(self._agent.state, request.name)
        if child.role == PROXY:
            raise ConfigError("the proxy has no other role")
        if child.role == request.role:
            return Done(lines=[f"{child.name} is a {request.role} server already"])
        if child.phase != "ready":
            raise StartupError(f"{child.name} is {child.phase}; only a server that is ready can be switched")
        if request.role == "context":
            meant.check_generates_without(self._agent.state, [child.name])
        self._ask(child.name, "switch", request.timeout_s, f"becomes a {request.role} server", role=request.role)
        if request.wait:
            await self._end_switch(child, request)
        else:
            self._agent.soon(functools.partial(self._end_switch_alone, child, request))
        return _done(request, [child.name], f"is a {request.role} server now", f"becomes a {request.role} server")

    async def _end_switch_alone(self, child: Child, request: SwitchRequest) -> None:
        try:
            await self._end_switch(child, request)
        except TrtdisaggError as e:
            self._handle(Noticed, text=str(e))

    async def _end_switch(self, child: Child, request: SwitchRequest) -> None:
        await self._until_switched(child, request)
        await self._replanning.roles_changed()

    async def _until_switched(self, child: Child, request: SwitchRequest) -> None:
        def is_over(state: ClusterState) -> bool:
            there = state.children.get(child.name)
            return there is None or there.leaving is None

        await self._agent.until(is_over, self._patience.deadline(request.timeout_s))
        there = self._agent.state.children.get(child.name)
        if there is None or there.role != request.role:
            raise StartupError(f"{child.name} did not become a {request.role} server: see `trtdisagg events`")

    async def _leave(self, request: ServersRequest, then: Then, word: str) -> Done:
        meant.check_stays_up(self._agent.state)
        names = meant.several(self._agent.state, request.names, with_proxy=False)
        meant.check_generates_without(self._agent.state, names)
        for name in names:
            self._ask(name, then, request.timeout_s, "drains")
        if request.wait:
            await self._patience.until_gone(names, request.timeout_s)
        return _done(request, names, f"is {word}", f"is being {word}")

    # --- how many ---------------------------------------------------------------------------------------------------

    async def scale(self, request: ScaleRequest) -> Done:
        """Have as many servers of a role as asked for.

        :raises ConfigError: there is no such role, or nothing would generate.
        :raises StartupError: there is no room for more, or one did not get ready.
        """
        async with self._replanning.lock:
            meant.check_stays_up(self._agent.state)
            scaling = wishes.scaling(self._agent.state, request.counts, self._replanning.groups)
            meant.check_generates_without(self._agent.state, scaling.removed, new=[*scaling.new, *scaling.revived])
            names = [c.name for c in wishes.servers(self._agent.state) if c.name not in scaling.removed]
            await self._replanning.plan_for([*names, *scaling.new], moved=self._homeless(scaling.revived))
        self._add([*scaling.new, *scaling.revived], after=[])
        for name in scaling.removed:
            self._ask(name, "gone", request.timeout_s, "drains")
        if request.wait:
            await self._patience.until_back([*scaling.new, *scaling.revived], {}, request.timeout_s)
            await self._patience.until_gone(scaling.removed, request.timeout_s)
        added = _done(request, [*scaling.new, *scaling.revived], "is added", "is being added")
        removed = _done(request, scaling.removed, "is removed", "is being removed")
        return Done(lines=[*added.lines, *removed.lines] or ["nothing to do"])

    async def move(self, names: Sequence[str]) -> list[str]:
        """Find servers another place, because their node is gone or about to go; what they are is as before.

        :returns: those that have one; where there is not room for all, the first ones that find some. Without a file
            there is nothing to plan with.
        """
        if not self._replanning.has_file:
            return []
        async with self._replanning.lock:
            problems = {name: await self._find_place([name]) for name in names} if await self._find_place(names) else {}
        moved = [name for name in names if not problems.get(name)]
        for name in moved:
            self._handle(Noticed, text=f"{name} goes to {', '.join(dict.fromkeys(self._agent.plan_of(name).nodes))}")
        if left := [name for name in names if name not in moved]:
            self._handle(Noticed, text=f"for {', '.join(left)} there is no other place: {problems[left[0]]}")
        return moved

    async def _find_place(self, names: Sequence[str]) -> str:
        """
        :returns: why there is none; empty: they have one.
        """
        try:
            await self._replanning.plan_for([c.name for c in wishes.servers(self._agent.state)], moved=names)
        except TrtdisaggError as e:
            return e.message
        except Exception as e:  # noqa: BLE001 (a node that is gone may take files with it; the cluster goes on)
            return f"a fault of ours: {e!r}"
        return ""

    # --- the file ---------------------------------------------------------------------------------------------------

    async def apply(self, request: ApplyRequest) -> Done:
        """Read the file again, and make what runs what it says: what needs no restart at once, the rest in turn.

        :raises ConfigError: the file is wrong; then all goes on as it was.
        :raises StartupError: there is no room, or a server did not come back.
        """
        async with self._replanning.lock:
            meant.check_stays_up(self._agent.state)
            wish, plan = await self._replanning.read(request.overrides)
            state, before = self._agent.state, self._replanning.wish.loaded
            difference = Difference.of(before, wish.loaded, state, self._agent.plan_of, plan)
            if request.dry_run or not difference.lines:
                return Done(lines=difference.lines or ["nothing to do"])
            self._replanning.accept(wish, plan)
        for line in difference.lines:
            self._handle(Noticed, text=line)
        incarnations = {name: child.incarnation for name, child in state.children.items()}
        self._converge(difference, request)
        if request.wait:
            await self._patience.until_back(difference.added, {}, request.timeout_s)
            await self._patience.until_back(difference.changed, incarnations, request.timeout_s, in_turn=True)
            await self._patience.until_gone(difference.removed, request.timeout_s)
        return Done(lines=difference.lines)

    async def reload(self) -> None:
        """Apply the file, as SIGHUP asks for; what is wrong with it is said, and all goes on."""
        try:
            await self.apply(ApplyRequest())
        except TrtdisaggError as e:
            self._handle(Noticed, text=f"the file is not applied: {e}")
        except Exception as e:  # noqa: BLE001 (nothing in a file may end the cluster)
            self._handle(Noticed, text=f"the file is not applied: a fault of ours: {e!r}")

    def _converge(self, difference: Difference, request: ApplyRequest) -> None:
        """A proxy that goes waits for those that come; a server that comes may wait for the place of one that goes."""
        proxies = [name for name in difference.added if self._agent.plan_of(name).role == PROXY]
        self._add(proxies, after=[])
        for name in difference.removed:
            self._ask(name, "gone", request.timeout_s, "drains")
        self._add([name for name in difference.added if name not in proxies], after=difference.removed)
        if difference.changed:
            timeout_s = self._timeout_s(request.timeout_s)
            self._handle(RollAsked, names=difference.changed, timeout_s=timeout_s, reason="restarts with new settings")

    # --- wishes -----------------------------------------------------------------------------------------------------

    def _handle(self, kind: Callable[..., Event], **fields: object) -> None:
        self._agent.handle(kind(at=time.monotonic(), **fields))

    def _ask(self, name: str, then: Then, timeout_s: float | None, reason: str, **more: object) -> None:
        self._handle(LeaveAsked, name=name, then=then, timeout_s=self._timeout_s(timeout_s), reason=reason, **more)

    def _add(self, names: Iterable[str], after: Sequence[str]) -> None:
        for name in names:
            plan = self._agent.plan_of(name)
            there = [other for other in after if other in self._agent.state.children]
            before = [other for other in there if self._agent.plan_of(other).gpu_places & plan.gpu_places]
            self._handle(Added, name=name, role=plan.role, after=before)

    def _timeout_s(self, asked_s: float | None) -> float:
        return self._agent.plan.supervision.drain_timeout_s if asked_s is None else asked_s

    def _homeless(self, names: Sequence[str]) -> list[str]:
        """Servers that do not live, and would not where they were: a node is gone."""
        ended = [name for name in names if not meant.one(self._agent.state, name).lives and self._replanning.has_file]
        return [name for name in ended if any(map(self._agent.has_left, self._agent.plan_of(name).nodes))]


def _done(request: ScaleRequest | ServersRequest | SwitchRequest, names: Sequence[str], done: str, begun: str) -> Done:
    """What became of servers, or what is under way where nobody waits for it."""
    return Done(lines=[f"{name} {done if request.wait else begun}" for name in names])
