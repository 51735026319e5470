"""One child process: started, listened to, and seen to its end with all it has started.

    agent ---- command line, environment, signals ----------> child (own session and process group)
          ---- commands (a pipe of its own) ---------------->
          <--- lines (stdout and stderr) --------------------
          <--- reports (a pipe of its own) ------------------

Knows nothing of servers, states or restarts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.commands import Command, Gone, encode_command
from trtdisagg.protocol.reports import Failed, Linked, Ready, Report, decode_report
from trtdisagg.supervisor import guardian, notify
from trtdisagg.supervisor.pipes import lines, pipe, until_ended

NUM_LAST_LINES = 10
_END_OF_PIPES_S = 1.0
"""From the end of a child and all it started to the end of its pipes."""
_SWEEP_TIMEOUT_S = 10.0
_REAP_TIMEOUT_S = 5.0


class LostError(Exception):
    """A process is out of reach, and counts as ended; the message says why."""


class Groups(Protocol):
    """Who is told of process groups; see `Guardian`."""

    def add(self, group: int) -> None: ...

    def discard(self, group: int) -> None: ...


class ChildProcess:
    """One process: the proxy, or a rank of a server.

    :param argv: given the descriptors for reports and for commands, the command line to start.
    :param env: added to this process's environment.
    :param groups: told of its group while it lives.
    :param pass_fds: descriptors that it inherits beside those; looked at when `argv` has been called.
    :param pace: waited for before reports are looked at once the child is ready: beats of many children come together
        and wake this process once. What ends a child is seen at once all the same.
    :param mark: value of the run's mark, which everything that the child starts inherits.
    :param on_line: called with each line it prints, as it is, with its end.
    :param on_report: called with each report.
    :param on_end: called when the process has ended, before what it has left is cleared up.
    """

    def __init__(
        self,
        argv: Callable[[int, int], Sequence[str]],
        *,
        env: Mapping[str, str],
        mark: str,
        groups: Groups | None = None,
        pass_fds: Sequence[int] = (),
        pace: Callable[[], Awaitable[None]] | None = None,
        on_line: Callable[[bytes], None],
        on_report: Callable[[Report], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._argv = argv
        self._groups = groups
        self._pass_fds = pass_fds
        self._pace = pace
        self._commands_fd: int | None = None
        self._is_calm = False
        self._num_awaited = 0
        """Answers to commands."""
        self._env = env
        self._mark = mark
        self._on_line = on_line
        self._on_report = on_report
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._early_signal: signal.Signals | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process else None

    async def run(self, on_start: Callable[[int], None]) -> int:
        """Start the process and see it to its end; then nothing of it is left, however this ends.

        :param on_start: called with the pid.
        :returns: the return code, as of subprocess.
        :raises OSError: when it cannot be started.
        """
        if self._early_signal is not None:
            return -self._early_signal
        with contextlib.ExitStack() as fds:
            output, reports = self._start(fds)
            assert self._process is not None
            if self._groups is not None:
                self._groups.add(self._process.pid)
            try:
                async with anyio.create_task_group() as readers:
                    readers.start_soon(self._read_lines, output)
                    readers.start_soon(self._read_reports, reports)
                    on_start(self._process.pid)
                    await self._ended()
                    await self._clear_remains()
                    readers.cancel_scope.deadline = anyio.current_time() + _END_OF_PIPES_S
            finally:
                self._commands_fd = None
                if self._process.returncode is None:
                    await self._put_to_an_end()
                if self._groups is not None:
                    self._groups.discard(self._process.pid)
            return self._process.returncode

    def command(self, command: Command) -> None:
        """Send a command; to one that is ending or does not read, it is as if there was none."""
        self._num_awaited += not isinstance(command, Gone)
        if self._commands_fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._commands_fd, encode_command(command))

    def calm_down(self) -> None:
        """From now on its reports are looked at when the pace says."""
        self._is_calm = True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group; before the start, it has the effect that there is none."""
        if self._process is None:
            self._early_signal = number
        elif self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    # --- start and end ----------------------------------------------------------------------------------------------

    def _start(self, fds: contextlib.ExitStack) -> tuple[int, int]:
        """:returns: our ends of the pipes, for output and reports."""
        with contextlib.ExitStack() as theirs:
            output, output_theirs = pipe(fds, theirs)
            reports, reports_theirs = pipe(fds, theirs)
            commands_theirs, self._commands_fd = os.pipe()
            fds.callback(os.close, self._commands_fd)
            theirs.callback(os.close, commands_theirs)
            os.set_blocking(self._commands_fd, False)
            self._process = subprocess.Popen(
                self._argv(reports_theirs, commands_theirs),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output_theirs,
                stderr=output_theirs,
                pass_fds=[reports_theirs, commands_theirs, *self._pass_fds],
                start_new_session=True,
            )
        return output, reports

    def _environment(self) -> dict[str, str]:
        return {**notify.without_variables(os.environ), "PYTHONUNBUFFERED": "1", **self._env, guardian.MARK: self._mark}

    async def _ended(self) -> None:
        """Wait for the end of the process, and kill what is left of its group while its number is still taken."""
        assert self._process is not None
        await until_ended(self._process.pid)
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._on_end()

    async def _clear_remains(self) -> None:
        """Kill what it started in groups of their own."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(functools.partial(guardian.sweep, self._mark, timeout_s=_SWEEP_TIMEOUT_S))

    async def _put_to_an_end(self) -> None:
        self.signal(signal.SIGKILL)
        with anyio.move_on_after(_REAP_TIMEOUT_S, shield=True):
            await self._ended()
        await self._clear_remains()

    # --- what it says -----------------------------------------------------------------------------------------------

    async def _read_lines(self, fd: int) -> None:
        async for line in lines(fd):
            self.last_lines.append(line.decode(errors="replace").rstrip())
            self._on_line(line)

    async def _read_reports(self, fd: int) -> None:
        async for line in lines(fd, self._until_due):
            report = _report(line)
            if isinstance(report, Ready):
                self.calm_down()
            if isinstance(report, Ready | Linked):
                self._num_awaited = max(0, self._num_awaited - 1)
            self._on_report(report)

    async def _until_due(self, fd: int) -> None:
        assert self._process is not None
        if self._is_calm and not self._num_awaited and self._pace is not None and self._process.returncode is None:
            await self._pace()
        else:
            await anyio.wait_readable(fd)


def _report(line: bytes) -> Report:
    """A report that cannot be understood is a failure: whatever sent it is not of our kind."""
    try:
        report = decode_report(line)
    except msgspec.DecodeError as e:
        return Failed(message=f"sent a report that cannot be read ({e}): {line[:200]!r}", fatal=True)
    if isinstance(report, Ready) and report.wire_version != WIRE_VERSION:
        message = f"speaks wire version {report.wire_version}, this supervisor {WIRE_VERSION}: they are of two releases"
        return Failed(message=message, fatal=True)
    return report
