"""The agent: brings a cluster up, keeps it up, takes it down.

    run_agent                       the tree of tasks is the tree of processes
      +- guardian                   clears up if we are killed
      +- signals, clock             only make events
      +- members -> proxy
      +- control socket             status, events, down
      +- one task for each child    its lines and reports make events

Every event goes through `handle`: reduced into the state, written to the journal, and what the state then calls for is
done. Nothing else changes anything.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import time
from collections.abc import Callable

import anyio
import anyio.abc

from trtdisagg.errors import CrashLoopError, NotReadyInTimeError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus, DownRequest, Member, Members, Told
from trtdisagg.registry.client import MembersClient
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor import ports, rundir, view
from trtdisagg.supervisor.control import ControlServer
from trtdisagg.supervisor.decide import decide, next_wake
from trtdisagg.supervisor.events import (
    Event,
    Finish,
    Kill,
    Routed,
    Spawn,
    StopAsked,
    Terminate,
    Woke,
)
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.journal import Journal
from trtdisagg.supervisor.membership import registrar_for
from trtdisagg.supervisor.nursery import Nursery
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.state import initial, reduce
from trtdisagg.supervisor.status_feed import StatusFeed

_LATE_S = 2.0
"""A clock that rings so late means that this process did not run, rather than that all children fell silent."""
_NUM_LINES_IN_STATUS = 8
_ERRORS: dict[int, type[TrtdisaggError]] = {
    error.exit_code: error for error in (StartupError, NotReadyInTimeError, CrashLoopError)
}


async def run_agent(
    plan: Plan,
    place: Place,
    *,
    on_status: Callable[[ClusterStatus], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    on_line: Callable[[str, str], None] = lambda _name, _line: None,
) -> int:
    """Bring a cluster up and keep it up until it is asked to go down. To be called in the main thread.

    :param on_status: called whenever something has changed.
    :param on_event: called with what happened, in words.
    :param on_line: called with each line that a child prints, and the child's name.
    :returns: exit code of the command: 0 after `down`, 128+N after signal N (0 under systemd).
    :raises AlreadyRunningError: when an agent of this cluster runs.
    :raises StartupError: when something is missing, or a server ends before it was ready.
    :raises NotReadyInTimeError: when a server is not ready in time.
    :raises CrashLoopError: when a server died too often.
    """
    run_id = secrets.token_hex(8)
    with rundir.hold(place, run_id) as lock_fd:
        for child in plan.children:
            if child.spec.port:
                ports.check_free(child.spec.host, child.spec.port, child.name)
        secret_file = str(rundir.make_secret(place)) if plan.makes_secret else plan.secret_file
        agent = Agent(plan, place, run_id, registrar_for(plan, on_event), on_status=on_status, on_event=on_event)
        with (
            Guardian(run_id, place, lock_fd, agent.handle) as guardian,
            Nursery(place, secret_file, guardian, on_event=agent.handle, on_line=on_line) as nursery,
        ):
            return await agent.run(nursery, guardian)


class Agent:
    """One run of a cluster."""

    def __init__(
        self,
        plan: Plan,
        place: Place,
        run_id: str,
        registrar: Registrar | None,
        *,
        on_status: Callable[[ClusterStatus], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._place = place
        self._journal = Journal()
        self._feed = StatusFeed(self.status)
        self._on_status = on_status
        self._on_event = on_event
        self._state = initial(run_id, [child.name for child in plan.children], time.monotonic())
        self._plans = {child.name: child for child in plan.children}
        self._registrar = registrar
        self._members: list[Member] = []
        self._members_client = MembersClient(place.members_socket, self._told)
        self._wake_at: float | None = None
        self._changed = anyio.Event()
        self._finished = anyio.Event()

    async def run(self, nursery: Nursery, guardian: Guardian) -> int:
        """
        :returns: the exit code.
        :raises StartupError, NotReadyInTimeError, CrashLoopError: see `run_agent`.
        """
        self._nursery = nursery
        control = ControlServer(status=self.status, feed=self._feed, down=self._down, journal=self._journal)
        async with anyio.create_task_group() as self._tasks, control.listening(self._place.control_socket):
            self._tasks.start_soon(guardian.run)
            self._tasks.start_soon(self._watch_signals)
            self._tasks.start_soon(self._watch_clock)
            if self._plan.proxy:
                self._tell_proxy()
                self._tasks.start_soon(self._members_client.run)
            if self._registrar is not None:
                self._tasks.start_soon(self._registrar.run)
            await self._finished.wait()
            self._tasks.cancel_scope.cancel()
        return self._result()

    def status(self) -> ClusterStatus:
        return view.status(
            self._state,
            self._plan,
            self._place,
            now=time.monotonic(),
            agent_pid=os.getpid(),
            events=self._journal.last_lines(_NUM_LINES_IN_STATUS),
        )

    # --- events -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Take an event in, and do what is to be done then."""
        self._apply(event)
        self._settle()

    def _apply(self, event: Event) -> None:
        self._state = reduce(self._state, event)
        entry = self._journal.add(event)
        if entry is not None and entry.text is not None:
            self._on_event(entry.text)

    def _settle(self) -> None:
        now = time.monotonic()
        if self._wake_at is not None and now > self._wake_at + _LATE_S:
            self._apply(Woke(at=now, late_s=now - self._wake_at))
        while action := decide(self._state, self._plan.supervision, now):
            self._apply(action)
            self._carry_out(action)
        self._wake_at = next_wake(self._state, self._plan.supervision)
        self._changed.set()
        members = view.members(self._state, self._plan)
        if members != self._members:
            self._members = members
            self._tell_proxy()
            if self._registrar is not None:
                self._registrar.update(members)
        self._feed.touch()
        self._on_status(self.status())

    def _carry_out(self, action: Event) -> None:
        match action:
            case Spawn(name=name, incarnation=incarnation):
                self._tasks.start_soon(self._nursery.add(self._plans[name], incarnation), name=name)
            case Terminate(name=name):
                self._nursery.signal(name, signal.SIGTERM)
            case Kill(name=name):
                self._nursery.signal(name, signal.SIGKILL)
            case Finish():
                self._finished.set()

    def _down(self, request: DownRequest) -> None:
        at = time.monotonic()
        self.handle(StopAsked(at=at, reason="down", exit_code=0, timeout_s=request.timeout_s, force=request.force))

    def _tell_proxy(self) -> None:
        self._members_client.update(self._members, self._plan.needs)

    def _told(self, members: Members, _: Told) -> None:
        names = [member.name for member in members.members]
        if set(names) != self._state.routed:
            self.handle(Routed(at=time.monotonic(), names=names))

    def _result(self) -> int:
        stop = self._state.stop
        assert stop is not None
        if stop.exit_code in _ERRORS:
            raise _ERRORS[stop.exit_code](stop.reason)
        return stop.exit_code

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _watch_signals(self) -> None:
        """The first asks to drain, the second to kill. A terminal that goes away may send its signal twice."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            num_asked = 0
            async for number in signals:
                exit_code = 0 if "NOTIFY_SOCKET" in os.environ else 128 + number
                force = num_asked > 0 and number != signal.SIGHUP
                num_asked += 1
                reason = signal.Signals(number).name
                self.handle(StopAsked(at=time.monotonic(), reason=reason, exit_code=exit_code, force=force))

    async def _watch_clock(self) -> None:
        """Settle whenever something is due."""
        self._settle()
        while True:
            self._changed = anyio.Event()
            wait_s = math.inf if self._wake_at is None else self._wake_at - time.monotonic()
            with anyio.move_on_after(wait_s) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                self._settle()
