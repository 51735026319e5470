"""What a cluster tells those who see no more of it than a folder: that of a Slurm job, on a shared file system.

    url         where clients go, from when it can serve until its end
    exit-code   how it ended

Each file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from trtdisagg.errors import StartupError, TrtdisaggError
from trtdisagg.files import write_whole

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""Addresses to listen on that are no address to go to, and what they are called on this host."""


class RunFiles:
    """
    :param folder: None: nobody looks, and nothing is written.
    :param hostname: what the proxy listens on, as in the cluster file.
    """

    def __init__(self, folder: Path | None, hostname: str) -> None:
        self._folder = folder
        self._hostname = hostname

    @contextlib.contextmanager
    def of_a_run(self) -> Iterator[RunFiles]:
        """Around all of a run, whose error is its end.

        :raises StartupError: the folder is not there, or cannot be written to.
        """
        if self._folder is not None and not self._folder.is_dir():
            raise StartupError(f"There is no folder {self._folder}; --run-dir takes one that is there")
        self._remove("exit-code")
        try:
            yield self
        except TrtdisaggError as e:
            self.ended(e.exit_code)
            raise
        except BaseException:
            self.ended(1)
            raise

    def serves(self, url: str) -> None:
        """To be called when it can serve, with its address on this host."""
        here = _EVERYWHERE.get(self._hostname)
        self._write("url", url.replace(here, socket.gethostname(), 1) if here else url)

    def ended(self, exit_code: int) -> None:
        self._remove("url")
        self._write("exit-code", str(exit_code))

    def _write(self, name: str, text: str) -> None:
        if self._folder is not None:
            with self._writing():
                write_whole(self._folder / name, f"{text}\n".encode(), mode=0o666)

    def _remove(self, name: str) -> None:
        if self._folder is not None:
            with self._writing():
                (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise StartupError(f"The run's folder {self._folder} cannot be written to: {e.strerror}") from e
