"""Single keys from a terminal, and a wait that ends with one, with a change of the window, or with a deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
_LEAVE = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Keyboard:
    """Takes the terminal over while it is open, and gives it back as it was, whatever signal ends the block.

    :ivar left: a signal asked to leave.
    """

    def __init__(self) -> None:
        self.left = False
        self._fd = sys.stdin.fileno()
        self._keys = ""
        self._back = contextlib.ExitStack()

    def __enter__(self) -> Keyboard:
        with contextlib.ExitStack() as back:
            back.callback(termios.tcsetattr, self._fd, termios.TCSADRAIN, termios.tcgetattr(self._fd))
            tty.setcbreak(self._fd)
            self._woken, self._wake = os.pipe()
            for fd in (self._woken, self._wake):
                back.callback(os.close, fd)
                os.set_blocking(fd, False)
            back.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._wake))
            for number in _SIGNALS:
                back.callback(signal.signal, number, signal.signal(number, self._record))
            self._back = back.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._back.close()

    def pressed(self, keys: set[str]) -> bool:
        """Whether one of these was pressed since the last call, or a signal asked to leave."""
        pressed, self._keys = self._keys, ""
        return self.left or bool(keys & set(pressed))

    def wait(self, timeout_s: float) -> None:
        """Wait for a key, a signal, or the deadline."""
        ready, _, _ = select.select([self._fd, self._woken], [], [], timeout_s)
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 1024)
        if self._fd in ready:
            read = os.read(self._fd, 1024)
            self._keys += read.decode(errors="replace")
            self.left = self.left or not read  # the terminal is gone

    def _record(self, number: int, _frame: Any) -> None:
        self.left = self.left or number in _LEAVE
