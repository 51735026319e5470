"""Whose rows and columns the load file has: the agent's side of it. The layout is in `protocol.loads`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trtdisagg.protocol.loads import KEY_ROWS, NUM_COLUMNS, NUM_ROWS, LoadFile


class LoadTable:
    """Made when the first process of several is started, so that a proxy of one process has none.

    :param path: of the file, in a directory that goes with the cluster.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: LoadFile | None = None
        self._columns: list[str | None] = []
        """By incarnation of the process."""
        self.rows: dict[str, int] = {}
        """By identity of the server."""
        self._free_rows = list(range(NUM_ROWS - 1, 0, -1))

    def __enter__(self) -> LoadTable:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def enter(self, incarnation: str) -> int | None:
        """A column for a process that is about to start; None: there is none left."""
        self._file = self._file or LoadFile.make(self.path)
        if incarnation not in self._columns:
            free = self._columns.index(None) if None in self._columns else len(self._columns)
            if free == NUM_COLUMNS:
                return None
            self._columns[free : free + 1] = [incarnation]
            self._file.num_columns = len(self._columns)
        return self._columns.index(incarnation)

    def leave(self, incarnation: str) -> None:
        """The process is gone: what it had in flight is not any more."""
        if self._file is None or incarnation not in self._columns:
            return
        column = self._columns.index(incarnation)
        for row in (*self.rows.values(), *KEY_ROWS):
            self._file.write(row, column, 0, 0)
        self._columns[column] = None

    def has(self, incarnation: str) -> bool:
        return incarnation in self._columns

    def keep(self, servers: Collection[str], held: Collection[str]) -> None:
        """Give each server a row, and take back those of servers that are gone.

        :param servers: identities of those that may be routed to.
        :param held: of those that some process may still route to, or has something in flight on.
        """
        if self._file is None:
            return
        for identity in self.rows.keys() - set(servers) - set(held):
            self._free_rows.append(self.rows.pop(identity))
        for identity in servers:
            if identity not in self.rows and self._free_rows:
                self.rows[identity] = self._free_rows.pop()
