"""A child's log file: what it prints, as it prints it, in files of bounded size, and beside it when that was.

    NAME.log    NAME.log.1    NAME.log.2 ...      the lines, raw; the newest file first
    NAME.times  NAME.times.1  NAME.times.2 ...    `OFFSET UNIX_SECONDS` a line: what stands from this byte on came then

A time is noted at most every MARK_S, so a file of times is small, and lines that came together have the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
NUM_OLD_FILES = 3
MARK_S = 0.1

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def times_file(log_file: Path) -> Path:
    """Where the times of `NAME.log`, or of `NAME.log.1`, are."""
    name, _, rest = log_file.name.rpartition(".log")
    return log_file.with_name(f"{name}.times{rest}")


class LogFile:
    """Appends lines, and starts a new file when one is full. Opens the file when the first line comes.

    :param max_bytes: a file that has reached this size is put aside.
    :param clock: Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        num_old_files: int = NUM_OLD_FILES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_old_files = num_old_files
        self._clock = clock
        self._fd: int | None = None
        self._times_fd: int | None = None
        self._num_bytes = 0
        self._marked_at = 0.0

    def write(self, line: bytes) -> None:
        """Append a line, with its end.

        :raises OSError: when the disk is full, say; the next line is tried again.
        """
        if self._fd is not None and self._num_bytes >= self._max_bytes:
            self.close()
            self._put_aside()
        if self._fd is None:
            self._open()
        assert self._fd is not None
        self._mark()  # before the line: who reads the line finds its time
        self._num_bytes += os.write(self._fd, line)

    def close(self) -> None:
        """
        :raises OSError: what was written is lost, as some file servers say only now.
        """
        fds, self._fd, self._times_fd = (self._times_fd, self._fd), None, None
        with contextlib.ExitStack() as stack:  # both, whatever becomes of the first
            for fd in fds:
                if fd is not None:
                    stack.callback(os.close, fd)

    def _open(self) -> None:
        self._times_fd = os.open(times_file(self._path), _FLAGS, 0o600)
        try:
            self._fd = os.open(self._path, _FLAGS, 0o600)
        except OSError:
            self.close()
            raise
        self._num_bytes = os.fstat(self._fd).st_size
        self._marked_at = 0.0

    def _mark(self) -> None:
        now = self._clock()
        if abs(now - self._marked_at) >= MARK_S:
            self._marked_at = now
            assert self._times_fd is not None
            with contextlib.suppress(OSError):  # a line without its time is better than none
                os.write(self._times_fd, b"%d %.3f\n" % (self._num_bytes, now))

    def _put_aside(self) -> None:
        for i in range(self._num_old_files, 0, -1):
            newer, older = numbered(self._path, i - 1), numbered(self._path, i)
            for rename in ((newer, older), (times_file(newer), times_file(older))):
                with contextlib.suppress(FileNotFoundError):
                    rename[0].rename(rename[1])


def numbered(path: Path, i: int) -> Path:
    """The i-th file that was put aside; the 0th is the one that is written."""
    return path.with_name(f"{path.name}.{i}") if i else path
