"""What the processes of a proxy have last said in `/metrics`, in files beside their members sockets.

    m-0.1.sock  m-0.1.page      of a process that lives: told in its place when it does not answer
                m-1.1.page      of one that has ended, however: its counters still count
                gone.page       many of those, added up

A page is kept before it is told, so whoever reads `/metrics` sees no counter go back: of a process that was killed only
what nobody had seen yet is lost. Files are written whole or not at all; who adds up holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from trtdisagg.files import write_whole
from trtdisagg.proxy.records.merged_metrics import Family, added, decode, encode, that_only_grow

MAX_GONE = 8
"""Pages of processes that have ended; more are added up."""
_SUM = "gone.page"


class KeptPages:
    """
    :param socket: our own members socket.
    """

    def __init__(self, socket: str) -> None:
        self._mine = _page_of(socket)
        self._directory = self._mine.parent

    def keep(self, page: Sequence[Family]) -> bytes:
        """
        :returns: the page as it is told.
        """
        told = encode(page)
        with contextlib.suppress(
            OSError
        ):  # a full disk, or a cluster that is being cleared up: it is told all the same
            write_whole(self._mine, told)
        return told

    def of_silent(self, sockets: Collection[str]) -> list[list[Family]]:
        """What only grows in the last pages of processes that do not answer now."""
        return [page for socket in sockets if (page := _read(_page_of(socket))) is not None]

    def of_gone(self, living: Collection[str]) -> list[list[Family]]:
        """The same of those that have ended.

        :param living: members sockets of those that have not.
        """
        there = {self._mine, *map(_page_of, living)}
        with self._locked():
            gone = sorted(path for path in self._directory.glob("*.page") if path not in there)
            pages = [page for path in gone if (page := _read(path)) is not None]
            if len(gone) > MAX_GONE:
                total = added(pages)
                write_whole(self._directory / _SUM, encode(total))
                for path in gone:
                    if path.name != _SUM:
                        path.unlink()
                return [total]
        return pages

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for as long as it takes to read a few files."""
        fd = os.open(self._directory / "pages.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _page_of(socket: str) -> Path:
    return Path(socket).with_suffix(".page")


def _read(path: Path) -> list[Family] | None:
    try:
        return that_only_grow(decode(path.read_bytes()))
    except (OSError, msgspec.DecodeError):
        return None
