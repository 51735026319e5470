"""Stdout that may go away: a pipe whose reader has ended, a terminal that was closed."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import IO, cast


def lasting_stdout() -> IO[str]:
    """Stdout for a program that outlives its reader: when nobody reads any more, nothing is written any more."""
    return cast(IO[str], _Lasting())


def stdout_by(put: Callable[[bytes], None]) -> IO[str]:
    """Stdout for a program that must not wait for its reader.

    :param put: has what is written passed on to `write_stdout`.
    """
    return cast(IO[str], _Put(put))


def discard_stdout() -> None:
    """Let what is and will be written to stdout go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def write_stdout(data: bytes) -> None:
    """Write to stdout past all buffers, where a thread that hangs in it holds no lock; as `lasting_stdout`."""
    try:
        while data:
            try:
                data = data[os.write(sys.stdout.fileno(), data) :]
            except BlockingIOError:  # another program that has this terminal, or pipe, does not want to wait
                select.select([], [sys.stdout.fileno()], [])
    except OSError:
        discard_stdout()


class _Lasting:
    encoding = "utf-8"

    def write(self, text: str) -> int:
        try:
            return sys.stdout.write(text)
        except OSError:
            discard_stdout()
            return len(text)

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except OSError:
            discard_stdout()

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()


class _Put(_Lasting):
    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def write(self, text: str) -> int:
        self._put(text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Whoever writes it has no buffer."""
