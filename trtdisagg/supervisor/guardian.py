"""The guardian: when the agent ends without a word, what it had started is killed. A program of its own.

    python -I -S guardian.py RUN_ID RUN_DIR      stdin: a pipe from the agent

    +123\\n      the process group 123 was started        -123\\n    it has ended
    bye\\n       the agent has cleared up itself

The end of the pipe without a `bye` means that the agent was killed. Then all groups are killed, and every process that
bears the run's mark in its environment: also one that a server started in a session of its own. It holds the cluster's
lock meanwhile, by the descriptor it inherits, so that no new agent starts among the remains.

Uses the standard library only and imports nothing of the package, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

MARK = "TRTDISAGG_RUN"
"""Environment variable of every child: `RUN_ID.NAME.NUMBER`, which begins with the run's id."""

LOCK = "lock"
"""Name of the file in the run directory that says who holds it."""

_SWEEP_TIMEOUT_S = 15.0
_PAUSE_S = 0.01
_NUM_EMPTY_SWEEPS = 3
"""So often nothing must be found: a process may be between fork and exec, where it does not bear the mark yet."""


def main() -> None:
    run_id, run_dir = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        if line == "bye\n":
            return
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    kill_groups(groups)
    sweep(run_id, timeout_s=_SWEEP_TIMEOUT_S)
    remove_directory(run_dir)


def kill_groups(groups: Iterable[int]) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def sweep(mark: str, *, timeout_s: float) -> bool:
    """Kill all processes that bear a mark until none is left.

    :param mark: a run's id, or all of one child's mark.

    :returns: whether none is left; False when the deadline passed.
    """
    deadline = time.monotonic() + timeout_s
    num_empty = 0
    while num_empty < _NUM_EMPTY_SWEEPS:
        num_empty = 0 if kill_marked(mark) else num_empty + 1
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True


def kill_marked(mark: str) -> int:
    """Send SIGKILL once to every process that bears the mark, and tell how many there were."""
    return sum(_kill_if_marked(pid, mark) for pid in marked(mark))


def marked(mark: str) -> Iterator[int]:
    """Pids of the processes that bear the mark, without this one. The dead have no environment."""
    mine = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != mine and _is_marked(int(entry), mark):
            yield int(entry)


def _is_marked(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
    except OSError:
        return False
    start = f"\0{MARK}={mark}".encode()
    return any(start + end in b"\0" + environ for end in (b".", b"\0"))


def _kill_if_marked(pid: int, mark: str) -> bool:
    """Look again while a descriptor keeps the number from being given to another process."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_marked(pid, mark):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def remove_directory(path: str) -> None:
    """Remove the run directory, the lock last: until then nobody else puts anything there."""
    remove_files(path)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(path, LOCK))
        os.rmdir(path)


def remove_files(path: str) -> None:
    """Remove what is in the run directory, but the lock: each, whatever becomes of another."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(path):
            if entry != LOCK:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(path, entry))


if __name__ == "__main__":
    main()
