"""A child's log file: what it prints, as it prints it, in files of bounded size.

NAME.log  NAME.log.1  NAME.log.2 ...        the newest first
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
NUM_OLD_FILES = 3


class LogFile:
    """Appends lines, and starts a new file when one is full. Opens the file when the first line comes.

    :param max_bytes: a file that has reached this size is put aside.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, num_old_files: int = NUM_OLD_FILES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_old_files = num_old_files
        self._fd: int | None = None
        self._num_bytes = 0

    def write(self, line: bytes) -> None:
        """Append a line, with its end.

        :raises OSError: when the disk is full, say; the next line is tried again.
        """
        if self._fd is None:
            self._open()
        elif self._num_bytes >= self._max_bytes:
            self.close()
            self._put_aside()
            self._open()
        assert self._fd is not None
        self._num_bytes += os.write(self._fd, line)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._num_bytes = os.fstat(self._fd).st_size

    def _put_aside(self) -> None:
        for i in range(self._num_old_files, 0, -1):
            newer = self._numbered(i - 1)
            with contextlib.suppress(FileNotFoundError):
                newer.rename(self._numbered(i))

    def _numbered(self, i: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{i}") if i else self._path
