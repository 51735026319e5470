"""Runs the children of one agent, and turns what they do and say into events and log lines.

Does what it is told: which child is to run, and when it is to end, is not decided here.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.commands import Command
from trtdisagg.protocol.nodes import Start
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Report
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.clearing import Clearing
from trtdisagg.supervisor.door import Door
from trtdisagg.supervisor.events import Event, Exited, Noticed, Reported, Spawned
from trtdisagg.supervisor.gang import Gang, Process
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.load_table import LoadTable
from trtdisagg.supervisor.logbook import LogBook
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.nodes.meeting_point import MeetingPoint
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.processes import ChildProcess
from trtdisagg.supervisor.rank_plan import rank_argv, rank_env, rank_spec
from trtdisagg.supervisor.spec_files import engine_spec, with_spec_file


class _Incarnation(msgspec.Struct, kw_only=True, frozen=True):
    """One life of a child."""

    plan: ChildPlan
    id: str
    meeting_point: MeetingPoint | None
    """Of its ranks, where they are on several nodes."""

    def mark(self, rank: int) -> str:
        return self.id if self.plan.num_ranks == 1 else f"{self.id}.{rank}"


class Nursery:
    """The children of one run.

    :param secret_file: the cluster's secret, if it has one.
    :param guardian: told of each process group.
    :param door: where proxies accept clients.
    :param loads: where several processes of a proxy say what they have in flight.
    :param pace: how often children that are ready are listened to.
    :param on_event: called with all that happens.
    :param on_line: called with each line that a child prints, and the child's name.
    :param nodes: the others; None: all children are on this host.
    """

    def __init__(
        self,
        place: Place,
        secret_file: str | None,
        guardian: Guardian,
        *,
        door: Door,
        loads: LoadTable,
        pace: Callable[[], Awaitable[None]] | None = None,
        on_event: Callable[[Event], None],
        on_line: Callable[[str, str], None],
        nodes: NodeLinks | None = None,
    ) -> None:
        self._place = place
        self._secret_file = secret_file
        self._guardian = guardian
        self._on_event = on_event
        self._on_line = on_line
        self._door = door
        self._loads = loads
        self._pace = pace
        self._nodes = nodes
        self._children: dict[str, Gang] = {}
        """By incarnation."""
        self._plans: dict[str, ChildPlan] = {}
        """Likewise."""
        self._logs = LogBook(place.log_file, self._log_fails)
        self._clearing = Clearing(lambda text: on_event(Noticed(at=time.monotonic(), text=text)))

    def __enter__(self) -> Nursery:
        self._logs.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._logs.__exit__(*error)

    def add(self, plan: ChildPlan, incarnation: str) -> Callable[[], Coroutine[None, None, None]]:
        """Take a child in, which can be signalled from now on.

        :returns: the task that runs it, from its start until nothing of it is left.
        """
        meeting_point = MeetingPoint() if plan.spans_nodes else None
        life = _Incarnation(plan=plan, id=incarnation, meeting_point=meeting_point)
        child = Gang(
            functools.partial(self._rank, life),
            plan.num_ranks,
            in_turn=plan.spans_nodes,
            on_line=functools.partial(self._line, plan.name),
            on_report=functools.partial(self._report, plan.name, incarnation),
        )
        self._children[incarnation], self._plans[incarnation] = child, plan
        return functools.partial(self._run, child, life)

    def forget(self, name: str) -> None:
        """A child that does not come back."""
        self._clearing.forget(name)
        self._logs.forget(name)

    def plan_of(self, incarnation: str | None) -> ChildPlan | None:
        """The plan that a child runs by; None: it does not run."""
        return self._plans.get(incarnation or "")

    def signal(self, incarnation: str, number: signal.Signals) -> None:
        """Signal the process groups of a child; of one that is gone, nobody."""
        if incarnation in self._children:
            self._children[incarnation].signal(number)

    def command(self, incarnation: str, command: Command) -> None:
        """Send a command to a child; to one that is gone, nobody gets it."""
        if incarnation in self._children:
            self._children[incarnation].command(command)

    # --- one incarnation --------------------------------------------------------------------------------------------

    async def _run(self, child: Gang, life: _Incarnation) -> None:
        name, incarnation, nodes = life.plan.name, life.id, life.plan.nodes

        def started(pids: list[int]) -> None:
            if life.meeting_point is not None:
                life.meeting_point.close()
            at, pid = time.monotonic(), pids[0]
            self._on_event(Spawned(at=at, name=name, incarnation=incarnation, pid=pid, pids=pids, nodes=nodes))

        try:
            if life.plan.profile is not None:
                life.plan.profile.make_folder()
            await self._until_clear(life.plan)
            how = await child.run(started)
        except OSError as e:
            how = f"cannot be started: {e}"
        if life.meeting_point is not None:
            life.meeting_point.close()
        self._place.gang_socket(incarnation).unlink(missing_ok=True)
        del self._children[incarnation], self._plans[incarnation]
        lines = list(child.last_lines)
        self._on_event(Exited(at=time.monotonic(), name=name, incarnation=incarnation, how=how, last_lines=lines))

    async def _until_clear(self, plan: ChildPlan) -> None:
        """Of what is on this host; the agents of other nodes see to theirs."""
        here = [rank for rank in range(plan.num_ranks) if self._is_here(plan, rank)]
        spec = plan.spec
        has_port = spec.port and plan.role != "proxy" and 0 in here
        await self._clearing.until_clear(
            plan.name,
            gpus=[plan.gpus[rank] for rank in here] if plan.gpus else [],
            needed_bytes=max(plan.rank_bytes, default=0),
            address=(spec.host, spec.port) if has_port else None,
        )

    def _is_here(self, plan: ChildPlan, rank: int) -> bool:
        return self._nodes is None or not plan.nodes or plan.nodes[rank] == self._nodes.here

    def _rank(self, life: _Incarnation, rank: int, **callbacks: Any) -> Process:
        """One process of a child."""
        plan = life.plan
        if self._nodes is not None and not self._is_here(plan, rank):
            start = functools.partial(self._start, life, rank)
            found = life.meeting_point.found if life.meeting_point else None
            return self._nodes.process(plan.nodes[rank], life.mark(rank), start, on_gang_address=found, **callbacks)
        inherited = list(self._door.fds) if plan.role == "proxy" else []
        return ChildProcess(
            functools.partial(self._argv, life, rank, inherited),
            env=rank_env(plan, rank),
            mark=life.mark(rank),
            groups=self._guardian,
            pass_fds=inherited,
            pace=self._pace,
            **callbacks,
        )

    def _start(self, life: _Incarnation, rank: int) -> Start:
        """What the agent of another node is asked."""
        plan = life.plan
        spec = self._engine_spec(life, rank)
        if life.meeting_point is not None:
            spec = replace(spec, gang_address=life.meeting_point.address)
        return Start(
            process=life.mark(rank),
            spec=spec,
            argv=rank_argv(plan, rank, life.id),
            env=rank_env(plan, rank),
            gpu=plan.gpus[rank] if plan.gpus else None,
            needed_bytes=max(plan.rank_bytes, default=0),
            binds_gang=life.meeting_point is not None and rank == 0,
        )

    def _engine_spec(self, life: _Incarnation, rank: int) -> EngineSpec:
        """What a rank is started with, but for what only its node knows."""
        spec = rank_spec(life.plan, rank)
        assert isinstance(spec, EngineSpec)
        if self._nodes is not None and life.plan.nodes:
            spec = replace(spec, host=self._nodes.address_of(life.plan.nodes[rank]))
        return replace(spec, incarnation=life.id)

    def _argv(self, life: _Incarnation, rank: int, inherited: list[int], report_fd: int, command_fd: int) -> list[str]:
        """Write the spec file of a process, and make the command line that reads it."""
        spec: EngineSpec | ProxySpec
        if life.plan.role == "proxy":
            spec = self._proxy_spec(life, report_fd)
        else:
            spec = self._engine_spec(life, rank)
            pipes = {"report_fd": report_fd, "command_fd": command_fd}
            spec, fds = engine_spec(spec, self._place, life.meeting_point, **pipes)
            inherited += fds
        argv = rank_argv(life.plan, rank, life.id)
        return with_spec_file(argv, spec, self._place, life.plan.name, secret_file=self._secret_file)

    def _proxy_spec(self, life: _Incarnation, report_fd: int) -> ProxySpec:
        assert isinstance(life.plan.spec, ProxySpec)
        spec = replace(
            life.plan.spec,
            listen_fds=self._door.fds,
            members_socket=str(self._place.members_socket(life.id)),
            control_socket=str(self._place.control_socket),
            report_fd=report_fd,
        )
        column = self._loads.enter(life.id) if spec.num_workers > 1 else None
        return spec if column is None else replace(spec, load_file=str(self._loads.path), load_column=column)

    def _report(self, name: str, incarnation: str, report: Report) -> None:
        self._on_event(Reported(at=time.monotonic(), name=name, incarnation=incarnation, report=report))

    def _log_fails(self, name: str, error: OSError) -> None:
        self._on_event(Noticed(at=time.monotonic(), text=f"{name}: its log cannot be written: {error}"))

    def _line(self, name: str, line: bytes) -> None:
        self._logs.write(name, line)
        self._on_line(name, line.decode(errors="replace").rstrip("\r\n"))
