"""What the other processes of this proxy have in flight on each server, and what this one tells them of it.

Uses asks; where it stands is known by `protocol.loads`, and who has which row is told by the agent.
"""

from __future__ import annotations

from collections.abc import Mapping

from trtdisagg.protocol.loads import MAX_REQUESTS, MAX_TOKENS, open_load_file
from trtdisagg.proxy.routing.ask import Load

_NOTHING = Load()


class SharedLoads:
    """
    :param column: of this process.
    :raises StartupError: when the file cannot be used.
    """

    def __init__(self, path: str, column: int) -> None:
        self._file = open_load_file(path)
        self._column = column
        self._rows: Mapping[str, int] = {}
        self._ours: dict[str, Load] = {}
        """By server, where there is anything."""

    def take_rows(self, rows: Mapping[str, int]) -> None:
        """Which server has which row from now on.

        In a row that is new to it this process says what it has, if only nothing: it may have had something there of
        the server whose row it was.
        """
        before, self._rows = self._rows, rows
        for identity, row in rows.items():
            if before.get(identity) != row:
                self._file.write(row, self._column, *self._ours.get(identity, _NOTHING))

    def load(self, identity: str) -> Load:
        """What all others have in flight on a server; nothing where it has no row yet."""
        row = self._rows.get(identity)
        if row is None:
            return _NOTHING
        num_requests, num_tokens = self._file.sums(row)
        ours = self._ours.get(identity, _NOTHING)
        return Load(num_requests - ours.num_requests, num_tokens - ours.num_tokens)

    def tell(self, identity: str, load: Load) -> None:
        """What this process has in flight on it, as far as there is room to say it."""
        load = Load(min(load.num_requests, MAX_REQUESTS), min(load.num_tokens, MAX_TOKENS))
        if load.num_requests or load.num_tokens:
            self._ours[identity] = load
        else:
            self._ours.pop(identity, None)
        if (row := self._rows.get(identity)) is not None:
            self._file.write(row, self._column, *load)

    def close(self) -> None:
        self._file.close()
