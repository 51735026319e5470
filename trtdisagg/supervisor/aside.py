"""Lines on their way to whoever may be slow to take them: written in a thread of its own, in order.

    put(name, line)  -->  at most max_bytes wait  -->  thread: write(name, line)

A file server that is away, a terminal that is held, a pipe that nobody reads: they hold up this thread, and never who
supervises. Lines that there is no room for are left out, and how many is said where they are missing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

MAX_BYTES = 16 * 1024 * 1024
_BYTES_BESIDE = 100
"""That a line takes in memory, beside its own: empty ones must not fill it either."""
_END_S = 5.0
"""For what still waits, at the end."""


class Aside:
    """
    :param write: called in the thread with a line and the name it was put under; raises nothing.
    """

    def __init__(self, write: Callable[[str, bytes], None], *, max_bytes: int = MAX_BYTES) -> None:
        self._write = write
        self._max_bytes = max_bytes
        self._waiting: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._num_bytes_put = self._num_bytes_written = 0
        self._num_left_out: dict[str, int] = {}
        """Lines, by name."""
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)

    def __enter__(self) -> Aside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written, but not for ever; see `is_over`."""
        for name in list(self._num_left_out):
            self._tell_left_out(name)
        self._waiting.put(None)
        self._thread.join(_END_S)

    @property
    def is_over(self) -> bool:
        """Whether nothing is written any more."""
        return not self._thread.is_alive()

    def put(self, name: str, line: bytes) -> None:
        """Have a line written; an empty one, which may mean something, in any case."""
        if line and self._num_bytes_put - self._num_bytes_written + _size(line) > self._max_bytes:
            self._num_left_out[name] = self._num_left_out.get(name, 0) + 1
            return
        self._tell_left_out(name)
        self._put(name, line)

    def _tell_left_out(self, name: str) -> None:
        if number := self._num_left_out.pop(name, 0):
            self._put(name, f"[{number} lines are left out here: they could not be written in time]\n".encode())

    def _put(self, name: str, line: bytes) -> None:
        self._num_bytes_put += _size(line)
        self._waiting.put((name, line))

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._write(*item)
            self._num_bytes_written += _size(item[1])


def _size(line: bytes) -> int:
    return len(line) + _BYTES_BESIDE
