"""`trtdisagg logs`: the files that the agent writes its children's lines to, also when nothing runs any more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import click

from trtdisagg.cli.find import find_cluster
from trtdisagg.cli.names import complete_log
from trtdisagg.errors import ConfigError, NotRunningError
from trtdisagg.supervisor.rundir import running_pid

_LOOK_AGAIN_S = 0.2


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] [NAME]...", shell_complete=complete_log)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the cluster is down.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Begin with the last.")
def command(words: tuple[str, ...], follow: bool, lines: int) -> None:
    """Show what servers and proxy wrote.

    NAME is that of a server, `proxy`, or `agent` for the supervisor itself; without one, all are shown. FILE is the
    cluster file; without it, cluster.yaml in this directory or the only cluster that runs.
    """
    files = [word for word in words if Path(word).suffix in (".yaml", ".yml")]
    if len(files) > 1:
        raise ConfigError(f"one cluster file, please, not {' and '.join(files)}")
    place = find_cluster(files[0] if files else None)
    with _Reader(place.log_dir, {word for word in words if word not in files}, lines) as reader:
        reader.show_new()
        while follow and running_pid(place) is not None:
            time.sleep(_LOOK_AGAIN_S)
            reader.show_new()


class _Reader:
    """Shows the lines of several files as they grow, and of those that come into being.

    :param names: whose logs; none: everybody's.
    :param num_lines: how many of those already there to begin with, of each file.
    :raises NotRunningError: one of `names` has no log.
    """

    def __init__(self, log_dir: Path, names: set[str], num_lines: int) -> None:
        self._log_dir = log_dir
        self._names = names
        self._tails: dict[str, Tail] = {}
        self._num_lines: int | None = num_lines
        there = self._there()
        if unknown := names - there:
            raise NotRunningError(f"no log of {_list(unknown)}; there are: {_list(there)}")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for tail in self._tails.values():
            tail.close()

    def show_new(self) -> None:
        shown = sorted(self._names or self._there())
        width = max(map(len, shown), default=0)
        for name in shown:
            tail = self._tails.setdefault(name, Tail(self._log_dir / f"{name}.log", self._num_lines))
            _show(tail.read(), f"{name:<{width}} | " if len(self._names) != 1 else "")
        self._num_lines = None  # a file that is new has nothing that is old

    def _there(self) -> set[str]:
        return {path.stem for path in self._log_dir.glob("*.log")}


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _show(lines: Iterable[str], prefix: str) -> None:
    for line in lines:
        click.echo(prefix + line)


class Tail:
    """Whole lines of a file that grows, and that may be put aside for a new one of the same name.

    :param num_lines: how many of those already there to begin with; None: all.
    """

    def __init__(self, path: Path, num_lines: int | None = None) -> None:
        self._path = path
        self._num_lines = num_lines
        self._file: BinaryIO | None = None
        self._unfinished = b""

    def read(self) -> list[str]:
        """The lines since the last call."""
        lines = self._rest()
        if self._is_next_there():
            self.close()
            self._file = self._path.open("rb")
            lines += self._rest()
        if lines and self._num_lines is not None:
            lines = lines[-self._num_lines :] if self._num_lines else []
            self._num_lines = None
        return lines

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _rest(self) -> list[str]:
        if self._file is None:
            return []
        *whole, self._unfinished = (self._unfinished + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def _is_next_there(self) -> bool:
        """Whether the file of this name is not, or not any more, the open one."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), there)
