"""Runs the children of one agent, and turns what they do and say into events and log lines.

Does what it is told: which child is to run, and when it is to end, is not decided here.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Coroutine

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.spec import ProxySpec, Report
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.events import Event, Exited, Noticed, Reported, Spawned
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.logfile import LogFile
from trtdisagg.supervisor.processes import ChildProcess
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.server_plan import ChildPlan
from trtdisagg.supervisor.words import exit_words


class Nursery:
    """The children of one run.

    :param secret_file: the cluster's secret, if it has one.
    :param guardian: told of each process group.
    :param on_event: called with all that happens.
    :param on_line: called with each line that a child prints, and the child's name.
    """

    def __init__(
        self,
        place: Place,
        secret_file: str | None,
        guardian: Guardian,
        *,
        on_event: Callable[[Event], None],
        on_line: Callable[[str, str], None],
    ) -> None:
        self._place = place
        self._secret_file = secret_file
        self._guardian = guardian
        self._on_event = on_event
        self._on_line = on_line
        self._children: dict[str, ChildProcess] = {}
        self._logs: dict[str, LogFile] = {}
        self._failing_logs: set[str] = set()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs.values():
            log.close()

    def add(self, plan: ChildPlan, incarnation: str) -> Callable[[], Coroutine[None, None, None]]:
        """Take a child in, which can be signalled from now on.

        :returns: the task that runs it, from its start until nothing of it is left.
        """
        child = ChildProcess(
            functools.partial(self._command, plan, incarnation),
            env=plan.env,
            mark=incarnation,
            on_line=functools.partial(self._line, plan.name),
            on_report=functools.partial(self._report, plan.name, incarnation),
        )
        self._children[plan.name] = child
        self._logs.setdefault(plan.name, LogFile(self._place.log_file(plan.name)))
        return functools.partial(self._run, child, plan.name, incarnation)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal the process group of a child; of one that is gone, nobody."""
        if name in self._children:
            self._children[name].signal(number)

    # --- one incarnation --------------------------------------------------------------------------------------------

    async def _run(self, child: ChildProcess, name: str, incarnation: str) -> None:
        def started(pid: int) -> None:
            self._guardian.add(pid)
            self._on_event(Spawned(at=time.monotonic(), name=name, incarnation=incarnation, pid=pid))

        try:
            how = exit_words(await child.run(started))
        except OSError as e:
            how = f"cannot be started: {e}"
        if child.pid is not None:
            self._guardian.discard(child.pid)
        del self._children[name]
        lines = list(child.last_lines)
        self._on_event(Exited(at=time.monotonic(), name=name, incarnation=incarnation, how=how, last_lines=lines))

    def _command(self, plan: ChildPlan, incarnation: str, report_fd: int) -> list[str]:
        """Write the spec file of one incarnation, and make the command that reads it."""
        spec: msgspec.Struct = replace(
            plan.spec, secret_file=self._secret_file, parent_pid=os.getpid(), report_fd=report_fd
        )
        if isinstance(spec, ProxySpec):
            spec = replace(
                spec,
                members_socket=str(self._place.members_socket),
                control_socket=str(self._place.control_socket),
            )
        else:
            spec = replace(spec, incarnation=incarnation)
        path = self._place.spec_file(plan.name)
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
