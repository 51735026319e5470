"""The processes that a node agent runs: started, signalled and told as the head says, and what they say sent to it."""

from __future__ import annotations

import functools
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from trtdisagg.protocol.nodes import (
    CalmDown,
    Cleared,
    Commanded,
    Ended,
    Line,
    Noticed,
    Reported,
    Signal,
    Start,
    Started,
    StartFailed,
    ToHead,
    ToNode,
)
from trtdisagg.protocol.reports import Report
from trtdisagg.supervisor.clearing import Clearing
from trtdisagg.supervisor.nodes.meeting_point import MeetingPoint
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.processes import ChildProcess, Groups
from trtdisagg.supervisor.spec_files import engine_spec, with_spec_file

_END_TIMEOUT_S = 15.0
"""For what was killed to be gone."""


class Ranks:
    """
    :param run_id: of this node agent: all that it starts bears it.
    :param groups: told of each process group.
    :param pace: how often processes that are ready are listened to.
    :param say: sends the head a message.

    Starts are taken within `async with`; on exit all that still runs is killed.
    """

    def __init__(
        self,
        place: Place,
        run_id: str,
        *,
        groups: Groups,
        pace: Callable[[], Awaitable[None]],
        say: Callable[[ToHead], None],
    ) -> None:
        self._place = place
        self._run_id = run_id
        self._groups = groups
        self._pace = pace
        self._say = say
        self._clearing = Clearing(lambda text: say(Noticed(text=text)))
        self._processes: dict[str, ChildProcess] = {}

    async def __aenter__(self) -> Ranks:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Their ends are told as any other."""
        for process in self._processes.values():
            process.signal(signal.SIGKILL)
        self._tasks.cancel_scope.deadline = anyio.current_time() + _END_TIMEOUT_S
        await self._tasks.__aexit__(*error)

    def handle(self, message: ToNode) -> None:
        """Do what the head says; to a process that is gone, nothing."""
        match message:
            case Start(process=name):
                self._start(name, message)
            case CalmDown(process=name) if name in self._processes:
                self._processes[name].calm_down()
            case Signal(process=name, number=number) if name in self._processes:
                self._processes[name].signal(signal.Signals(number))
            case Commanded(process=name, command=command) if name in self._processes:
                self._processes[name].command(command)

    def _start(self, name: str, start: Start) -> None:
        meeting_point = _meeting_point(start)
        inherited: list[int] = []
        self._processes[name] = ChildProcess(
            functools.partial(self._argv, start, meeting_point, inherited),
            env=start.env,
            mark=f"{self._run_id}.{name}",
            groups=self._groups,
            pass_fds=inherited,
            pace=self._pace,
            on_line=functools.partial(self._line, name),
            on_report=functools.partial(self._report, name),
            on_end=functools.partial(self._ended, name),
        )
        self._tasks.start_soon(self._run, name, start, meeting_point)

    async def _run(self, name: str, start: Start, meeting_point: MeetingPoint | None) -> None:
        """One process, from its start until nothing of it is left."""
        process, spec = self._processes[name], start.spec

        def started(pid: int) -> None:
            if meeting_point is not None:
                meeting_point.close()
            address = meeting_point.address if meeting_point and start.binds_gang else None
            self._say(Started(process=name, pid=pid, gang_address=address))

        who = f"{spec.name} rank {spec.rank}" if spec.rank else spec.name
        try:
            await self._clearing.until_clear(
                who,
                gpus=[start.gpu] if start.gpu is not None else [],
                needed_bytes=start.needed_bytes,
                address=(spec.host, spec.port) if spec.port and not spec.rank else None,
            )
            self._say(Cleared(process=name, returncode=await process.run(started)))
        except OSError as e:
            self._say(StartFailed(process=name, message=str(e)))
        finally:
            del self._processes[name]
            self._clearing.forget(who)
            if meeting_point is not None:
                meeting_point.close()
            if spec.rank == 0:
                self._place.gang_socket(spec.incarnation).unlink(missing_ok=True)

    def _argv(
        self, start: Start, meeting_point: MeetingPoint | None, inherited: list[int], report_fd: int, command_fd: int
    ) -> list[str]:
        pipes = {"report_fd": report_fd, "command_fd": command_fd}
        spec, fds = engine_spec(start.spec, self._place, meeting_point, **pipes)
        inherited += fds
        return with_spec_file(start.argv, spec, self._place, spec.name, secret_file=str(self._place.secret_file))

    def _line(self, name: str, line: bytes) -> None:
        self._say(Line(process=name, line=line))

    def _report(self, name: str, report: Report) -> None:
        self._say(Reported(process=name, report=report))

    def _ended(self, name: str) -> None:
        returncode = self._processes[name].returncode
        assert returncode is not None
        self._say(Ended(process=name, returncode=returncode))


def _meeting_point(start: Start) -> MeetingPoint | None:
    """Of the ranks of a server on several nodes."""
    if not start.binds_gang and start.spec.gang_address is None:
        return None
    point = MeetingPoint()
    if start.spec.gang_address is not None:
        point.found(start.spec.gang_address)
    return point
