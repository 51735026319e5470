"""What each process of a proxy has in flight, by server and by client: one mapped file, written without locks.

The agent makes the file, says which row is whose server and which column whose process, and clears up:

             column 0                        column 1          ...      8 bytes each, aligned, of this machine's order
    row 0    VERSION                         num_columns                written by the agent alone
    row 1    requests | requests | ... (NUM_COLUMNS)  tokens | tokens | ... (NUM_COLUMNS)       of one server
    row 2    ...
    KEY_ROWS requests | requests | ...               asked | asked | ...                         of one API key

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

VERSION = 2
NUM_ROWS = 1024
KEY_ROWS = range(NUM_ROWS, NUM_ROWS + 256)
NUM_COLUMNS = 128
_SLOT_BYTES = 8
_ROW_SLOTS = 2 * NUM_COLUMNS
NUM_BYTES = KEY_ROWS.stop * _ROW_SLOTS * _SLOT_BYTES


class LoadFile:
    """The file, mapped.

    :raises OSError: when it cannot be opened or mapped.
    :raises ValueError: when it is of another version.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, NUM_BYTES)
        self.slots = memoryview(self._map).cast("q")
        """Those of a row begin at `first_slot`."""
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
        at = first_slot(row) + column
        self.slots[at], self.slots[at + NUM_COLUMNS] = num_requests, num_tokens

    def sums(self, row: int) -> tuple[int, int]:
        """Requests and tokens over all columns."""
        at, number = first_slot(row), self.slots[1]
        tokens_at = at + NUM_COLUMNS
        return sum(self.slots[at : at + number]), sum(self.slots[tokens_at : tokens_at + number])


def first_slot(row: int) -> int:
    return row * _ROW_SLOTS
