"""What each process of a proxy has in flight, by server and by client: one mapped file, written without locks.

The agent makes the file, says which row is whose server and which column whose process, and clears up:

             column 0                column 1      ... NUM_COLUMNS      8 bytes each, aligned, of this machine's order
    row 0    VERSION                 num_columns                            written by the agent alone
    row 1    requests << 40 | tokens requests << 40 | tokens ...            of one server
    row 2    ...
    KEY_ROWS requests << 40 | asked  requests << 40 | asked  ...            of one API key

Both numbers stand in one slot, so that they are of one moment, and one sum over a row adds up both.

    who writes      a slot has one writer: the process that has its column; so adding is reading, then writing
    who reads       anybody, at any time: a sum may be a request old, never half a number
    a process dies  the agent sets its column to zero when the process is gone, and gives it to nobody before
    one is replaced the old one and its successor live side by side, each with a column
    a server leaves its row is given to another when no process lists it or has anything in flight on it, all as they
                    have said themselves
    keys change     a key's row is its place among the keys, so until all processes have read them again, for a second
                    or so, they may count for each other's clients
    no row is free  nor any column: whoever has none counts for itself alone

Which server has which row is told with the members (`control.Members`), so no process has to search.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Self

from trtdisagg.errors import StartupError

VERSION = 3
NUM_ROWS = 1024
KEY_ROWS = range(NUM_ROWS, NUM_ROWS + 256)
NUM_COLUMNS = 128
_SLOT_BYTES = 8
NUM_BYTES = KEY_ROWS.stop * NUM_COLUMNS * _SLOT_BYTES
_SHIFT = 40
_LOW = (1 << _SHIFT) - 1
MAX_REQUESTS, MAX_TOKENS = (1 << 22) - 1, _LOW // NUM_COLUMNS
"""Of one server and process: what a slot, and a sum of slots, has room for."""


class LoadFile:
    """The file, mapped.

    :raises OSError: when it cannot be opened or mapped.
    :raises ValueError: when it is of another version.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, NUM_BYTES)
        self.slots = memoryview(self._map).cast("q")
        """Row by row."""
        self._num_columns = 0
        self._rows: dict[int, memoryview[int]] = {}
        """Those that were summed, cut to so many columns."""
        if self.slots[0] != VERSION:
            self.close()
            raise ValueError("the load file is of another release")

    @classmethod
    def make(cls, path: Path) -> Self:
        """A new file, in which all is zero, for its owner alone."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, NUM_BYTES)
            os.pwrite(fd, VERSION.to_bytes(_SLOT_BYTES, sys.byteorder), 0)
            return cls(fd)
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: str) -> Self:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != NUM_BYTES:
                raise ValueError("the load file is of another release")
            return cls(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        for row in self._rows.values():
            row.release()
        self.slots.release()
        self._map.close()

    @property
    def num_columns(self) -> int:
        """Columns that are in use lie below it."""
        return self.slots[1]

    @num_columns.setter
    def num_columns(self, number: int) -> None:
        self.slots[1] = number

    def write(self, row: int, column: int, num_requests: int, num_tokens: int) -> None:
        """
        :param num_tokens: in a key's row, requests that it has asked since the process has counted them.
        """
        self.slots[row * NUM_COLUMNS + column] = num_requests << _SHIFT | num_tokens

    def sums(self, row: int) -> tuple[int, int]:
        """Requests and tokens over all columns."""
        total = sum(self._row(row))
        return total >> _SHIFT, total & _LOW

    def _row(self, row: int) -> memoryview[int]:
        """The columns of a row that are in use."""
        if (number := self.slots[1]) != self._num_columns:
            self._num_columns, self._rows = number, {}
        if (found := self._rows.get(row)) is None:
            found = self._rows[row] = self.slots[row * NUM_COLUMNS : row * NUM_COLUMNS + number]
        return found


def open_load_file(path: str) -> LoadFile:
    """Open the agent's file, in a process of the proxy.

    :raises StartupError: when it cannot be used.
    """
    try:
        return LoadFile.open(path)
    except (OSError, ValueError) as e:
        raise StartupError(f"load_file {path}: {e}") from e
