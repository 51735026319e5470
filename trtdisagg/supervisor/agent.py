"""The agent: brings a cluster up, keeps it up, takes it down.

    run_agent                       the tree of tasks is the tree of processes
      +- guardian                   clears up if we are killed
      +- signals, clock             only make events
      +- members -> proxy, registry
      +- control socket             status, events, verbs
      +- one task for each child    its lines and reports make events

Every event goes through `handle`: reduced into the state, written to the journal, and what the state then calls for is
done. Nothing else changes anything.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc

from trtdisagg.errors import CrashLoopError, NotReadyInTimeError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus, DownRequest
from trtdisagg.protocol.spec import Beat, SwitchRole
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor import ports, rundir, view
from trtdisagg.supervisor.autoscaler import Autoscaler
from trtdisagg.supervisor.canaries import Canaries
from trtdisagg.supervisor.control import ControlServer
from trtdisagg.supervisor.decide import decide, next_wake
from trtdisagg.supervisor.events import (
    Event,
    Exited,
    Finish,
    Hurry,
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
from trtdisagg.supervisor.journal import Journal
from trtdisagg.supervisor.membership import registrar_for
from trtdisagg.supervisor.notify import Notifier
from trtdisagg.supervisor.nursery import Nursery
from trtdisagg.supervisor.operations import Operations
from trtdisagg.supervisor.pace import Pace
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.reducer import reduce
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.server_plan import ChildPlan
from trtdisagg.supervisor.slots import join_address
from trtdisagg.supervisor.state import PROXY, ClusterState, initial
from trtdisagg.supervisor.status_feed import StatusFeed
from trtdisagg.supervisor.telling import Telling
from trtdisagg.supervisor.wish import Wish

_LATE_S = 2.0
"""A clock that rings so late means that this process did not run, rather than that all children fell silent."""
_LISTEN_S = 0.5
"""Between two looks at what children that are ready report."""
_SHOW_S = 1.0
"""Between two statuses in which only counters have changed."""
_NUM_LINES_IN_STATUS = 8
_ERRORS: dict[int, type[TrtdisaggError]] = {
    error.exit_code: error for error in (StartupError, NotReadyInTimeError, CrashLoopError)
}


async def run_agent(
    plan: Plan,
    place: Place,
    *,
    wish: Wish | None = None,
    on_status: Callable[[ClusterStatus], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    on_line: Callable[[str, str], None] = lambda _name, _line: None,
) -> int:
    """Bring a cluster up and keep it up until it is asked to go down. To be called in the main thread.

    :param wish: the cluster file that the plan was made of; None: there is none, so nothing can be scaled or applied.
    :param on_status: called when something has changed.
    :param on_event: called with what happened, in words.
    :param on_line: called with each line that a child prints, and the child's name.
    :returns: exit code of the command: 0 after `down`, 128+N after signal N (0 under systemd).
    :raises AlreadyRunningError: when an agent of this cluster runs.
    :raises StartupError: when something is missing, or a server ends before it was ready.
    :raises NotReadyInTimeError: when a server is not ready in time.
    :raises CrashLoopError: when a server died too often, and the cluster cannot serve without it.
    """
    run_id = secrets.token_hex(8)
    pace = Pace(_LISTEN_S)
    with contextlib.ExitStack() as stack:
        lock_fd = stack.enter_context(rundir.hold(place, run_id))
        for server in plan.servers:
            if server.spec.port:
                ports.check_free(server.spec.host, server.spec.port, server.name)
        sockets = []
        if plan.proxy:
            sockets = stack.enter_context(ports.listening(plan.proxy.spec.host, plan.proxy.spec.port, PROXY))
        secret_file = str(rundir.make_secret(place)) if plan.makes_secret else plan.secret_file
        agent = Agent(
            plan,
            place,
            run_id,
            wish=wish,
            registrar=registrar_for(plan, on_event),
            secret_file=secret_file,
            on_status=on_status,
            on_event=on_event,
        )
        guardian = stack.enter_context(Guardian(run_id, place, lock_fd, agent.handle))
        nursery = Nursery(
            place,
            secret_file,
            guardian,
            listen_fds=[sock.fileno() for sock in sockets],
            pace=pace.wait,
            on_event=agent.handle,
            on_line=on_line,
        )
        return await agent.run(stack.enter_context(nursery), guardian, pace)


class Agent:
    """One run of a cluster."""

    def __init__(
        self,
        plan: Plan,
        place: Place,
        run_id: str,
        *,
        wish: Wish | None,
        registrar: Registrar | None,
        secret_file: str | None,
        on_status: Callable[[ClusterStatus], None],
        on_event: Callable[[str], None],
    ) -> None:
        self.place = place
        self.plan = plan
        self.state = initial(run_id, {child.name: child.role for child in plan.children}, time.monotonic())
        self._plans = {child.name: child for child in plan.children}
        self._journal = Journal()
        self._feed = StatusFeed(self.status)
        self._on_status = on_status
        self._on_event = on_event
        self._operations = Operations(self, wish)
        self._telling = Telling(place, registrar, self.handle)
        self._autoscaler = Autoscaler(self.status, lambda: self.plan.autoscale, self._operations, self.handle)
        self._canaries = Canaries(
            lambda: view.asked_for_tokens(self.state, self.plan_of),
            lambda: self.plan.supervision,
            Path(secret_file).read_text().strip() if secret_file else "",
            self.handle,
        )
        self._notifier = Notifier()
        self._wake_at: float | None = None
        self._shown_at = 0.0
        self._poked = anyio.Event()
        self._changed = anyio.Event()
        self._finished = anyio.Event()

    async def run(self, nursery: Nursery, guardian: Guardian, pace: Pace) -> int:
        """
        :returns: the exit code.
        :raises StartupError, NotReadyInTimeError, CrashLoopError: see `run_agent`.
        """
        self._nursery = nursery
        control = ControlServer(
            status=self.status,
            feed=self._feed,
            down=self._down,
            operations=self._operations,
            journal=self._journal,
        )
        async with anyio.create_task_group() as self._tasks, control.listening(self.place.control_socket):
            for service in (guardian, pace, self._notifier, self._telling, self._autoscaler, self._canaries):
                self._tasks.start_soon(service.run)
            self._tasks.start_soon(self._watch_signals)
            self._tasks.start_soon(self._watch_clock)
            await self._finished.wait()
            self._tasks.cancel_scope.cancel()
        return self._result()

    def status(self) -> ClusterStatus:
        return view.status(
            self.state,
            self.plan,
            self.plan_of,
            self.place,
            now=time.monotonic(),
            agent_pid=os.getpid(),
            others=self._telling.others,
            autoscale=self._autoscaler.line,
            events=self._journal.last_lines(_NUM_LINES_IN_STATUS),
        )

    async def until(self, is_so: Callable[[ClusterState], bool], deadline: float) -> bool:
        """Wait until the state is so.

        :returns: False when the deadline, on the monotonic clock, came first.
        """
        with anyio.move_on_after(deadline - time.monotonic()):
            while not is_so(self.state):
                await self._changed.wait()
        return is_so(self.state)

    def replan(self, plan: Plan) -> None:
        """Take over another plan; children of the old one that still live keep theirs until they are gone."""
        known = self._plans
        self.plan = plan
        self._plans = {**known, **{child.name: child for child in plan.children}}

    def plan_of(self, name: str) -> ChildPlan:
        """The plan of a child; an old proxy that finishes its work has that of its successor."""
        return self._plans.get(name) or self._plans[PROXY]

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take an event in, and do what is to be done then. Beats come by the dozen and are settled together."""
        self._apply(event)
        if not (isinstance(event, Reported) and isinstance(event.report, Beat)):
            self._settle()
            self._show()
        self._poked.set()

    def _apply(self, event: Event) -> None:
        before = self.state
        self.state = reduce(before, event)
        entry = self._journal.add(event)
        if entry is not None and entry.text is not None:
            self._on_event(entry.text)
        if isinstance(event, Exited):
            self._telling.end(event.incarnation)
            if address := _left_address(before, event):
                self._apply(Noticed(at=event.at, text=f"Server {address} is removed"))

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
        if now > self._shown_at + _SHOW_S:
            self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._feed.touch()
        status = self.status()
        self._notifier.tell(status)
        self._on_status(status)

    def _carry_out(self, action: Event) -> None:
        match action:
            case Spawn(name=name, incarnation=incarnation):
                self._tasks.start_soon(self._nursery.add(self.plan_of(name), incarnation), name=name)
                if name == PROXY:
                    self._tasks.start_soon(self._telling.tell, incarnation)
            case Terminate(incarnation=incarnation) | Hurry(incarnation=incarnation):
                self._nursery.signal(incarnation, signal.SIGTERM)
            case Kill(incarnation=incarnation):
                self._nursery.signal(incarnation, signal.SIGKILL)
            case Switch(incarnation=incarnation, role=role):
                self._nursery.command(incarnation, SwitchRole(role=role))
            case Finish():
                self._finished.set()

    def _down(self, request: DownRequest) -> None:
        at = time.monotonic()
        self.handle(StopAsked(at=at, reason="down", exit_code=0, timeout_s=request.timeout_s, force=request.force))

    def _result(self) -> int:
        stop = self.state.stop
        assert stop is not None
        if stop.exit_code in _ERRORS:
            raise _ERRORS[stop.exit_code](stop.reason)
        return stop.exit_code

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _watch_signals(self) -> None:
        """The first asks to drain, the second to kill. SIGHUP means the same where a terminal went away (which may say
        so twice), and to read the file again where there is none."""
        reloads = not _has_terminal()
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            num_asked = 0
            async for number in signals:
                if number == signal.SIGHUP and reloads:
                    self._tasks.start_soon(self._reload)
                    continue
                exit_code = 0 if "NOTIFY_SOCKET" in os.environ else 128 + number
                force = num_asked > 0 and number != signal.SIGHUP
                num_asked += 1
                reason = signal.Signals(number).name
                self.handle(StopAsked(at=time.monotonic(), reason=reason, exit_code=exit_code, force=force))

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


def _left_address(before: ClusterState, event: Exited) -> str | None:
    """Address of a server that has ended because it was asked to; None: it was not, or is none."""
    child = next((c for c in before.children.values() if c.incarnation == event.incarnation), None)
    if child is None or child.role == PROXY or child.ready is None:
        return None
    is_asked = child.leaving is not None or before.stop is not None
    return join_address(child.ready.host, child.ready.port) if is_asked else None


def _has_terminal() -> bool:
    """Whether this process has a terminal that could go away."""
    return any(os.isatty(fd) for fd in (0, 1, 2))
