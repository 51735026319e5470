"""A process on another node: to whoever runs it, the same as a `ChildProcess` here.

What is asked of it goes to its node's agent, and what that says of it comes back, also after the connection was gone
for a while. A node that is lost has none: then `run` says why.
"""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Callable

import anyio

from trtdisagg.protocol.commands import Command
from trtdisagg.protocol.nodes import (
    CalmDown,
    Cleared,
    Commanded,
    Ended,
    Line,
    Reported,
    Signal,
    Start,
    Started,
    StartFailed,
    ToHead,
    ToNode,
)
from trtdisagg.protocol.reports import Report
from trtdisagg.supervisor.nodes.link import Link
from trtdisagg.supervisor.processes import NUM_LAST_LINES, LostError

_PUT_TO_AN_END_S = 5.0


class RemoteProcess:
    """
    :param start: makes what its node is asked, when it is to be started.
    :param on_gang_address: called with host:port of the socket that it inherited, where it was asked to.
    :param on_line, on_report, on_end: as of `ChildProcess`.
    """

    def __init__(
        self,
        link: Link,
        name: str,
        start: Callable[[], Start],
        *,
        on_gang_address: Callable[[str], None] | None = None,
        on_line: Callable[[bytes], None],
        on_report: Callable[[Report], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._link = link
        self._name = name
        self._start = start
        self._on_start: Callable[[int], None] = lambda _: None
        self._on_gang_address = on_gang_address
        self._on_line = on_line
        self._on_report = on_report
        self._on_end = on_end
        self._is_asked = False
        self._early_signal: signal.Signals | None = None
        self._failure: Exception | None = None
        self._over = anyio.Event()

    async def run(self, on_start: Callable[[int], None]) -> int:
        """Have it started, and see it to its end; then nothing of it is left, however this ends.

        :param on_start: called with the pid, which is one on its node.
        :returns: the return code, as of subprocess.
        :raises OSError: when it cannot be started there.
        :raises LostError: when its node is lost.
        """
        if self._early_signal is not None:
            return -self._early_signal
        self._on_start = on_start
        self._link.send(self._start())
        self._is_asked = True
        self._link.processes[self._name] = self
        try:
            await self._over.wait()
        finally:
            if not self._over.is_set():
                await self._put_to_an_end()
        if self._failure is not None:
            raise self._failure
        assert self.returncode is not None
        return self.returncode

    def command(self, command: Command) -> None:
        """Send a command; to one that is ending, it is as if there was none."""
        self._say(Commanded(process=self._name, command=command))

    def calm_down(self) -> None:
        """From now on its reports are not urgent."""
        self._say(CalmDown(process=self._name))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group; before the start, it has the effect that there is none."""
        if not self._is_asked:
            self._early_signal = number
        else:
            self._say(Signal(process=self._name, number=number))

    def _say(self, message: ToNode) -> None:
        if self._is_asked and not self._over.is_set():
            with contextlib.suppress(LostError):
                self._link.send(message)

    async def _put_to_an_end(self) -> None:
        self.signal(signal.SIGKILL)
        with anyio.move_on_after(_PUT_TO_AN_END_S, shield=True):
            await self._over.wait()

    # --- what its node says of it -----------------------------------------------------------------------------------

    def heard(self, message: ToHead) -> None:
        match message:
            case Started(pid=pid, gang_address=gang_address):
                self.pid = pid
                if gang_address is not None and self._on_gang_address is not None:
                    self._on_gang_address(gang_address)
                self._on_start(pid)
            case Line(line=line):
                self.last_lines.append(line.decode(errors="replace").rstrip())
                self._on_line(line)
            case Reported(report=report):
                self._on_report(report)
            case Ended(returncode=returncode):
                self.returncode = returncode
                self._on_end()
            case Cleared(returncode=returncode):
                self.returncode = returncode
                self._finish()
            case StartFailed(message=text):
                self._finish(OSError(text))

    def lost(self, why: str) -> None:
        """Its node is."""
        self._finish(LostError(why))
        self._on_end()

    def _finish(self, failure: Exception | None = None) -> None:
        self._failure = failure
        self._link.processes.pop(self._name, None)
        self._over.set()
