"""Lines of log files with their times: those that are there, from the files put aside too, and those that come."""

from __future__ import annotations

import bisect
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from trtdisagg.supervisor.logfile import NUM_OLD_FILES, numbered, times_file


class Line(msgspec.Struct, frozen=True):
    at: float
    """Unix seconds; 0: nobody noted it."""
    text: str


class Tail:
    """The lines of a log that grows, and that may be put aside for a new file of the same name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _TimedFile | None = None

    def past(self, num_lines: int | None, since: float | None = None) -> list[Line]:
        """What is there already; `read` goes on from here.

        :param num_lines: only so many, the last ones.
        :param since: only what came from this time on.
        """
        lines = self.read()
        for i in range(1, NUM_OLD_FILES + 1):
            if (num_lines is not None and len(lines) >= num_lines) or _reaches_back(lines, since):
                break
            lines = _whole(numbered(self._path, i)) + lines
        if since is not None:
            lines = [line for line in lines if line.at >= since]
        return lines if num_lines is None else lines[-num_lines:] if num_lines else []

    def read(self) -> list[Line]:
        """The lines since the last call."""
        lines = self._file.read() if self._file else []
        if not self._is_current():
            self.close()
            self._file = _TimedFile.open(self._path)
            lines += self._file.read() if self._file else []
        return lines

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _is_current(self) -> bool:
        """Whether the file of this name is the open one, or gone."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return self._file is not None
        return self._file is not None and self._file.is_same(there)


def _reaches_back(lines: list[Line], since: float | None) -> bool:
    return since is not None and bool(lines) and lines[0].at < since


def _whole(path: Path) -> list[Line]:
    file = _TimedFile.open(path)
    if file is None:
        return []
    try:
        return file.read()
    finally:
        file.close()


class _TimedFile:
    """One log file and the times beside it, both kept open: they stay together when they are put aside."""

    def __init__(self, log: BinaryIO, times: BinaryIO | None) -> None:
        self._log = log
        self._times = times
        self._offset = 0
        self._unfinished = b""
        self._unfinished_mark = b""
        self._offsets: list[int] = []
        self._seconds: list[float] = []

    @classmethod
    def open(cls, path: Path) -> _TimedFile | None:
        """:returns: None where there is no such file."""
        try:
            log = path.open("rb")
        except FileNotFoundError:
            return None
        try:
            return cls(log, times_file(path).open("rb"))
        except FileNotFoundError:
            return cls(log, None)

    def close(self) -> None:
        self._log.close()
        if self._times:
            self._times.close()

    def is_same(self, there: os.stat_result) -> bool:
        return os.path.samestat(os.fstat(self._log.fileno()), there)

    def read(self) -> list[Line]:
        """The whole lines since the last call."""
        *whole, self._unfinished = (self._unfinished + self._log.read()).split(b"\n")
        if whole:
            self._read_marks()
        lines = []
        for line in whole:
            lines.append(Line(self._at(self._offset), line.decode(errors="replace")))
            self._offset += len(line) + 1
        return lines

    def _read_marks(self) -> None:
        if self._times is None:
            return
        *marks, self._unfinished_mark = (self._unfinished_mark + self._times.read()).split(b"\n")
        for mark in marks:
            offset, _, seconds = mark.partition(b" ")
            try:
                self._seconds.append(float(seconds))
            except ValueError:  # cut short by a full disk
                continue
            self._offsets.append(int(offset))

    def _at(self, offset: int) -> float:
        i = bisect.bisect_right(self._offsets, offset)
        return self._seconds[i - 1] if i else 0.0
