"""The agent's side of the guardian: starts it, tells it of groups, starts it again if it is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

import anyio

from trtdisagg.supervisor import guardian, notify
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.pipes import until_ended
from trtdisagg.supervisor.place import Place

_PAUSE_S = 1.0
_BYE_TIMEOUT_S = 5.0


class Guardian:
    """Keeps a guardian for this process.

    :param lock_fd: the cluster's lock, which the guardian holds on to.
    :param on_event: called when it had to be started again.
    """

    def __init__(self, run_id: str, place: Place, lock_fd: int, on_event: Callable[[Event], None]) -> None:
        self._argv = [sys.executable, "-I", "-S", guardian.__file__, run_id, str(place.run_dir)]
        self._lock_fd = lock_fd
        self._on_event = on_event
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guardian:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """What had to be cleared up is: the guardian may go. If it does not, it is of no harm."""
        assert self._process is not None
        self._tell("bye")
        self._close_pipe()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_BYE_TIMEOUT_S)

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._tell(f"+{group}")

    def discard(self, group: int) -> None:
        self._groups.discard(group)
        self._tell(f"-{group}")

    async def run(self) -> None:
        """See to it that there is one, until cancelled."""
        while True:
            assert self._process is not None
            await until_ended(self._process.pid)
            self._process.wait()
            self._close_pipe()
            self._on_event(Noticed(at=time.monotonic(), text="the guardian was killed; another one is started"))
            await anyio.sleep(_PAUSE_S)
            self._start()
            for group in self._groups:
                self._tell(f"+{group}")

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={k: v for k, v in notify.without_variables(os.environ).items() if k != guardian.MARK},
            cwd="/",
            pass_fds=[self._lock_fd],
            start_new_session=True,
        )

    def _close_pipe(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it is dead, or known to be: told when it is back
            self._process.stdin.write(f"{line}\n".encode())
