"""The agent: brings a cluster up, keeps it up, takes it down.

    Agent.run                       the tree of tasks is the tree of processes
      +- guardian                   clears up if we are killed
      +- signals, clock             only make events
      +- members -> proxy, registry
      +- control socket             status, events, verbs
      +- one task for each child    its lines and reports make events

Every event goes through `handle`: reduced into the state, written to the journal, and what the state then calls for is
done. Nothing else changes anything.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from trtdisagg.protocol.commands import Gone, Meet, SwitchRole
from trtdisagg.protocol.control import ClusterStatus, DownRequest
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Beat, Linked
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor import view
from trtdisagg.supervisor.autoscaler import Autoscaler
from trtdisagg.supervisor.canaries import Canaries
from trtdisagg.supervisor.child_plan import ChildPlan, in_role
from trtdisagg.supervisor.control import ControlServer
from trtdisagg.supervisor.decide import decide, next_wake
from trtdisagg.supervisor.door import Door
from trtdisagg.supervisor.events import (
    Event,
    Exited,
    Finish,
    Hurry,
    Introduce,
    Kill,
    Noticed,
    Reported,
    Spawn,
    StopAsked,
    Switch,
    Terminate,
    Woke,
)
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.journal import Journal
from trtdisagg.supervisor.links import told_of_end
from trtdisagg.supervisor.load_table import LoadTable
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.notify import Notifier
from trtdisagg.supervisor.nursery import Nursery
from trtdisagg.supervisor.operations import Operations
from trtdisagg.supervisor.pace import Pace
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.reducer import reduce
from trtdisagg.supervisor.showing import Showing
from trtdisagg.supervisor.signals import Signals
from trtdisagg.supervisor.state import PROXY, ClusterState, Stop, current_name, initial
from trtdisagg.supervisor.status_feed import StatusFeed
from trtdisagg.supervisor.telling import Telling
from trtdisagg.supervisor.wish import Wish

_LATE_S = 2.0
"""A clock that rings so late means that this process did not run, rather than that all children fell silent."""
_NUM_LINES_IN_STATUS = 8


class Agent:
    """One run of a cluster."""

    def __init__(
        self,
        plan: Plan,
        place: Place,
        run_id: str,
        door: Door,
        loads: LoadTable,
        *,
        wish: Wish | None,
        nodes_of: Callable[[Host], Sequence[Node]],
        has_left: Callable[[str], bool],
        registrar: Registrar | None,
        secret_file: str | None,
        on_status: Callable[[ClusterStatus], None] | None,
        on_ready: Callable[[str], None],
        on_event: Callable[[str], None],
    ) -> None:
        self.place = place
        self.nodes_of = nodes_of
        self.has_left = has_left
        self._door = door
        self.plan = plan
        self.state = initial(run_id, {child.name: child.role for child in plan.children}, time.monotonic())
        self._plans = {child.name: child for child in plan.children}
        self._journal = Journal()
        self._feed = StatusFeed(self.status)
        self._on_ready = on_ready
        self._on_event = on_event
        self._operations = Operations(self, wish)
        self._telling = Telling(place, loads, registrar, self.handle)
        self._autoscaler = Autoscaler(self.status, lambda: self.plan.autoscale, self._operations, self.handle)
        self._canaries = Canaries(
            lambda: view.asked_for_tokens(self.state, self.plan_of),
            lambda: self.plan.supervision,
            Path(secret_file).read_text().strip() if secret_file else "",
            self.handle,
        )
        self._notifier = Notifier()
        self._showing = Showing(self.status, self._feed, self._notifier, on_status)
        self._signals = Signals(on_stop=self.handle, reload=lambda: self.soon(self._reload), tell=self._tell_status)
        self._wake_at: float | None = None
        self._poked = anyio.Event()
        self._changed = anyio.Event()
        self._finished = anyio.Event()

    async def run(self, nursery: Nursery, guardian: Guardian, pace: Pace) -> Stop:
        """
        :returns: why it went down.
        """
        self._nursery = nursery
        control = ControlServer(
            status=self.status,
            feed=self._feed,
            down=self._down,
            operations=self._operations,
            journal=self._journal,
            traces=self._telling.traces,
        )
        async with anyio.create_task_group() as self._tasks, control.listening(self.place.control_socket):
            for service in (guardian, pace, self._notifier, self._telling, self._autoscaler, self._canaries):
                self._tasks.start_soon(service.run)
            self._tasks.start_soon(self._signals.run)
            self._tasks.start_soon(self._watch_clock)
            await self._finished.wait()
            self._tasks.cancel_scope.cancel()
        assert self.state.stop is not None
        return self.state.stop

    def status(self) -> ClusterStatus:
        return view.status(
            self.state,
            self.plan,
            self._plan_shown,
            self.place,
            now=time.monotonic(),
            agent_pid=os.getpid(),
            others=self._telling.others,
            autoscale=self._autoscaler.line,
            events=self._journal.last_lines(_NUM_LINES_IN_STATUS),
        )

    async def move(self, names: Sequence[str]) -> Sequence[str]:
        """See `Operations.move`."""
        return await self._operations.move(names)

    def soon(self, task: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a task that nobody waits for, as long as the cluster lives."""
        self._tasks.start_soon(task)

    async def until(self, is_so: Callable[[ClusterState], bool], deadline: float) -> bool:
        """Wait until the state is so.

        :returns: False when the deadline, on the monotonic clock, came first.
        """
        with anyio.move_on_after(deadline - time.monotonic()):
            while not is_so(self.state):
                await self._changed.wait()
        return is_so(self.state)

    def replan(self, plan: Plan) -> None:
        """Take over another plan; children of the old one that still live keep theirs until they are gone.

        :raises StartupError: the proxy's address cannot be had; then the old plan goes on.
        """
        if plan.proxy is not None:
            assert isinstance(plan.proxy.spec, ProxySpec)
            self._door.move(plan.proxy.spec)
        known = self._plans
        self.plan = plan
        self._plans = {**known, **{child.name: child for child in plan.children}}

    def plan_of(self, name: str) -> ChildPlan:
        """The plan of a child; an old proxy that finishes its work has that of its successor."""
        return self._plans.get(name) or self._plans[current_name(name)]

    def _plan_shown(self, name: str) -> ChildPlan:
        """The plan that a child runs by, also when it drains because it shall run by another."""
        return self._nursery.plan_of(self.state.children[name].incarnation) or self.plan_of(name)

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take an event in, and do what is to be done then. Beats and links come by the dozen: settled together."""
        self._apply(event)
        if not (isinstance(event, Reported) and isinstance(event.report, Beat | Linked)):
            self._settle()
            self._showing.show()
        self._poked.set()

    def _apply(self, event: Event) -> None:
        before = self.state
        self.state = reduce(before, event)
        entry = self._journal.add(event)
        if entry is not None and entry.text is not None:
            self._on_event(entry.text)
        if before.ready_at is None and self.state.ready_at is not None:
            self._on_ready(view.url(self.state, self.plan))
        if isinstance(event, Exited):
            self._telling.end(event.incarnation)
            for child in told_of_end(self.state, event.name):
                self._nursery.command(child.incarnation or "", Gone(incarnation=event.incarnation))
            if address := view.left_address(before, event):
                self._apply(Noticed(at=event.at, text=f"Server {address} is removed"))
        if len(self.state.children) < len(before.children):
            self._forget(before.children.keys() - self.state.children.keys())

    def _forget(self, names: Iterable[str]) -> None:
        """Children that do not come back; a proxy that was replaced leaves what belongs to its successor."""
        for name in names:
            self._plans.pop(name, None)
            self._nursery.forget(name)

    def _settle(self) -> None:
        now = time.monotonic()
        if self._wake_at is not None and now > self._wake_at + _LATE_S:
            self._apply(Woke(at=now, late_s=now - self._wake_at))
        while action := decide(self.state, self.plan.supervision, now):
            self._apply(action)
            self._carry_out(action)
        self._wake_at = next_wake(self.state, self.plan.supervision)
        self._telling.update(view.routable(self.state, self.plan, self.plan_of))
        self._changed.set()
        self._changed = anyio.Event()
        self._showing.counters_changed(now)

    def _carry_out(self, action: Event) -> None:
        match action:
            case Spawn(name=name, incarnation=incarnation):
                plan = in_role(self.plan_of(name), self.state.children[name].role)
                self._tasks.start_soon(self._nursery.add(plan, incarnation), name=name)
                if plan.role == PROXY:
                    self._tasks.start_soon(self._telling.add(incarnation))
            case Terminate(incarnation=incarnation) | Hurry(incarnation=incarnation):
                self._nursery.signal(incarnation, signal.SIGTERM)
            case Kill(incarnation=incarnation):
                self._nursery.signal(incarnation, signal.SIGKILL)
            case Switch(incarnation=incarnation, role=role):
                self._nursery.command(incarnation, SwitchRole(role=role))
            case Introduce(incarnation=incarnation, peers=peers):
                for peer in peers:
                    self._nursery.command(incarnation, Meet(peer=peer))
            case Finish():
                self._finished.set()

    def _down(self, request: DownRequest) -> None:
        at = time.monotonic()
        self.handle(StopAsked(at=at, reason="down", exit_code=0, timeout_s=request.timeout_s, force=request.force))

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _tell_status(self) -> None:
        self._on_event(msgspec.json.encode(self.status()).decode())

    async def _reload(self) -> None:
        with self._notifier.reloading():
            await self._operations.reload()

    async def _watch_clock(self) -> None:
        """Settle whenever something is due, and after beats."""
        while True:
            self._settle()
            self._poked = anyio.Event()
            wait_s = math.inf if self._wake_at is None else self._wake_at - time.monotonic()
            with anyio.move_on_after(wait_s):
                await self._poked.wait()
