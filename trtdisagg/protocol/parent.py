"""Ending together with the parent process, by Linux's parent-death signal.

The signal follows the thread that made the child, so the agent starts children from its main thread. It does not reach
grandchildren, and exec of a set-user-id program clears it.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int | None) -> None:
    """Have the kernel kill this process when its parent ends; if that already happened, end now.

    To be called first thing in a child.

    Where a program that does not exec stands between the two (a profiler), the signal is not asked for: whichever
    thread of that program made this process may end long before it. Whoever started both then ends both.

    :param parent_pid: as the parent knows itself; None (started by hand): nothing is done.
    :raises OSError: when the kernel refuses.
    """
    if parent_pid is None:
        return
    _ask_for(signal.SIGKILL)
    # The parent may have ended before the call: then nobody will send the signal.
    if os.getppid() != parent_pid:
        if not _is_ancestor(parent_pid):
            os._exit(1)
        _ask_for(0)


def _ask_for(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _is_ancestor(pid: int) -> bool:
    above = os.getppid()
    while above > 1 and above != pid:
        above = _parent_of(above)
    return above == pid


def _parent_of(pid: int) -> int:
    """:returns: 0 when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name before it may have any characters.
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
