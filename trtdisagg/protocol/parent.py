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

    :param parent_pid: as the parent knows itself; None (started by hand): nothing is done.
    :raises OSError: when the kernel refuses.
    """
    if parent_pid is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have ended before the call: then nobody will send the signal.
    if os.getppid() != parent_pid:
        os._exit(1)
