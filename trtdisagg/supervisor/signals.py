"""The signals that an agent takes, as events and calls. To be listened to in the main thread.

SIGINT, SIGTERM     the first asks to drain, the second to kill
SIGHUP              read the file again; where a terminal went away: drain (it may say so twice)
SIGUSR1             write the status into the log
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import anyio

from trtdisagg.supervisor.events import Event, StopAsked


class Signals:
    """
    :param on_stop: called when the cluster is asked to go down.
    :param reload: begins to read the file again; does not wait for it.
    :param tell: writes the status.
    """

    def __init__(
        self, *, on_stop: Callable[[Event], None], reload: Callable[[], None], tell: Callable[[], None]
    ) -> None:
        self._on_stop = on_stop
        self._reload = reload
        self._tell = tell
        self._reloads = not _has_terminal()
        self._num_asked = 0

    async def run(self) -> None:
        """Take signals until cancelled."""
        taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
        with anyio.open_signal_receiver(*taken) as signals:
            async for number in signals:
                if number == signal.SIGUSR1:
                    self._tell()
                elif number == signal.SIGHUP and self._reloads:
                    self._reload()
                else:
                    self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        exit_code = 0 if "NOTIFY_SOCKET" in os.environ else 128 + number
        force = self._num_asked > 0 and number != signal.SIGHUP
        self._num_asked += 1
        self._on_stop(StopAsked(at=time.monotonic(), reason=number.name, exit_code=exit_code, force=force))


def _has_terminal() -> bool:
    """Whether this process has a terminal that could go away."""
    return any(os.isatty(fd) for fd in (0, 1, 2))
