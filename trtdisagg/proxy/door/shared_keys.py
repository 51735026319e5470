"""What clients ask of the other processes of this proxy: a limit is one of all. The file is `protocol.loads`."""

from __future__ import annotations

from trtdisagg.protocol.loads import KEY_ROWS, LoadFile, open_load_file


class SharedKeys:
    """
    :param path: of the load file.
    :param column: of this process.
    :raises StartupError: when the file cannot be used.
    """

    def __init__(self, path: str, column: int) -> None:
        self._file = open_load_file(path)
        self._column = column

    def place(self, number: int) -> SharedKey | None:
        """Of the key that is the number-th of all; None: there is none left."""
        return SharedKey(self._file, KEY_ROWS[number], self._column) if number < len(KEY_ROWS) else None

    def close(self) -> None:
        self._file.close()


class SharedKey:
    """One key's place."""

    def __init__(self, file: LoadFile, row: int, column: int) -> None:
        self._file = file
        self._row = row
        self._column = column
        self._ours = (0, 0)
        self.tell(0, 0)

    def tell(self, num_in_flight: int, num_asked: int) -> None:
        """What this process has of it."""
        self._ours = num_in_flight, num_asked
        self._file.write(self._row, self._column, num_in_flight, num_asked)

    def others(self) -> tuple[int, int]:
        """In flight with all others, and asked of them since they have counted."""
        num_in_flight, num_asked = self._file.sums(self._row)
        return num_in_flight - self._ours[0], num_asked - self._ours[1]
