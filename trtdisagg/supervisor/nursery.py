"""Runs the children of one agent, and turns what they do and say into events and log lines.

Does what it is told: which child is to run, and when it is to end, is not decided here.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.commands import Command
from trtdisagg.protocol.reports import Report
from trtdisagg.protocol.spec import EngineSpec, ProxySpec
from trtdisagg.supervisor import ports, rundir
from trtdisagg.supervisor.door import Door
from trtdisagg.supervisor.events import Event, Exited, Noticed, Reported, Spawned
from trtdisagg.supervisor.gang import Gang
from trtdisagg.supervisor.gpus import BaseLines
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.load_table import LoadTable
from trtdisagg.supervisor.logfile import LogFile
from trtdisagg.supervisor.processes import ChildProcess
from trtdisagg.supervisor.rank_plan import rank_env, rank_spec
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.server_plan import ChildPlan


class Nursery:
    """The children of one run.

    :param secret_file: the cluster's secret, if it has one.
    :param guardian: told of each process group.
    :param door: where proxies accept clients.
    :param loads: where several processes of a proxy say what they have in flight.
    :param pace: how often children that are ready are listened to.
    :param on_event: called with all that happens.
    :param on_line: called with each line that a child prints, and the child's name.
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
    ) -> None:
        self._place = place
        self._secret_file = secret_file
        self._guardian = guardian
        self._on_event = on_event
        self._on_line = on_line
        self._door = door
        self._loads = loads
        self._pace = pace
        self._children: dict[str, Gang] = {}
        """By incarnation."""
        self._logs: dict[str, LogFile] = {}
        self._failing_logs: set[str] = set()
        self._base_lines = BaseLines()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs.values():
            log.close()

    def add(self, plan: ChildPlan, incarnation: str) -> Callable[[], Coroutine[None, None, None]]:
        """Take a child in, which can be signalled from now on.

        :returns: the task that runs it, from its start until nothing of it is left.
        """
        child = Gang(
            functools.partial(self._rank, plan, incarnation),
            plan.num_ranks,
            on_line=functools.partial(self._line, plan.name),
            on_report=functools.partial(self._report, plan.name, incarnation),
        )
        self._children[incarnation] = child
        self._logs.setdefault(plan.name, LogFile(self._place.log_file(plan.name)))
        return functools.partial(self._run, child, plan, incarnation)

    def forget(self, name: str) -> None:
        """A child that does not come back."""
        self._base_lines.forget(name)
        self._failing_logs.discard(name)
        if (log := self._logs.pop(name, None)) is not None:
            log.close()

    def signal(self, incarnation: str, number: signal.Signals) -> None:
        """Signal the process groups of a child; of one that is gone, nobody."""
        if incarnation in self._children:
            self._children[incarnation].signal(number)

    def command(self, incarnation: str, command: Command) -> None:
        """Send a command to a child; to one that is gone, nobody gets it."""
        if incarnation in self._children:
            self._children[incarnation].command(command)

    # --- one incarnation --------------------------------------------------------------------------------------------

    async def _run(self, child: Gang, plan: ChildPlan, incarnation: str) -> None:
        name = plan.name

        def started(pids: list[int]) -> None:
            for pid in pids:
                self._guardian.add(pid)
            self._on_event(Spawned(at=time.monotonic(), name=name, incarnation=incarnation, pid=pids[0], pids=pids))

        try:
            await self._until_clear(plan)
            how = await child.run(started)
        except OSError as e:
            how = f"cannot be started: {e}"
        for pid in child.pids:
            self._guardian.discard(pid)
        self._place.gang_socket(incarnation).unlink(missing_ok=True)
        del self._children[incarnation]
        lines = list(child.last_lines)
        self._on_event(Exited(at=time.monotonic(), name=name, incarnation=incarnation, how=how, last_lines=lines))

    async def _until_clear(self, plan: ChildPlan) -> None:
        """Wait until what an incarnation before had is free; past the deadline that is said, and tried all the same."""
        if plan.gpus:
            await self._base_lines.record(plan.name, plan.gpus)
            problem = await self._base_lines.back_to_base_line(plan.name, plan.gpus, max(plan.rank_bytes))
            if problem is not None:
                self._on_event(Noticed(at=time.monotonic(), text=problem))
        if plan.spec.port and plan.role != "proxy":
            await ports.until_free(plan.spec.host, plan.spec.port, plan.name)

    def _rank(self, plan: ChildPlan, incarnation: str, rank: int, **callbacks: Any) -> ChildProcess:
        """One process of a child."""
        return ChildProcess(
            functools.partial(self._argv, plan, incarnation, rank),
            env=rank_env(plan, rank),
            mark=incarnation if plan.num_ranks == 1 else f"{incarnation}.{rank}",
            pass_fds=self._door.fds if plan.role == "proxy" else (),
            pace=self._pace,
            **callbacks,
        )

    def _argv(self, plan: ChildPlan, incarnation: str, rank: int, report_fd: int, command_fd: int) -> list[str]:
        """Write the spec file of a process, and make the command line that reads it."""
        spec: EngineSpec | ProxySpec = rank_spec(plan, rank)
        spec = replace(spec, secret_file=self._secret_file, parent_pid=os.getpid(), report_fd=report_fd)
        if isinstance(spec, ProxySpec):
            spec = replace(
                spec,
                listen_fds=self._door.fds,
                members_socket=str(self._place.members_socket(incarnation)),
                control_socket=str(self._place.control_socket),
            )
            column = self._loads.enter(incarnation) if spec.num_workers > 1 else None
            if column is not None:
                spec = replace(spec, load_file=str(self._loads.path), load_column=column)
        else:
            # Rank 0 alone is commanded, and tells the others.
            spec = replace(spec, incarnation=incarnation, command_fd=None if rank else command_fd)
            if plan.num_ranks > 1:
                spec = replace(spec, gang_socket=str(self._place.gang_socket(incarnation)))
        path = self._place.spec_file(f"{plan.name}.rank{rank}" if rank else plan.name)
        rundir.write_private(path, msgspec.json.format(msgspec.json.encode(spec)))
        return [*plan.argv, "--spec", str(path)]

    def _report(self, name: str, incarnation: str, report: Report) -> None:
        self._on_event(Reported(at=time.monotonic(), name=name, incarnation=incarnation, report=report))

    def _line(self, name: str, line: bytes) -> None:
        try:
            self._logs[name].write(line)
            self._failing_logs.discard(name)
        except OSError as e:
            if name not in self._failing_logs:
                self._failing_logs.add(name)
                self._on_event(Noticed(at=time.monotonic(), text=f"{name}: its log cannot be written: {e}"))
        self._on_line(name, line.decode(errors="replace").rstrip("\r\n"))
