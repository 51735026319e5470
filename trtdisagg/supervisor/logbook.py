"""The logs of all children of a run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from trtdisagg.supervisor.aside import Aside
from trtdisagg.supervisor.logfile import LogFile

_NO_MORE = b""


class LogBook:
    """
    :param path_of: where the log of a child is.
    :param on_failure: called with the name of a child whose log cannot be written, and why; once until it can.
    """

    def __init__(self, path_of: Callable[[str], Path], on_failure: Callable[[str, OSError], None]) -> None:
        self._path_of = path_of
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._aside = Aside(self._do)
        self._logs: dict[str, LogFile] = {}
        """Like what follows, for the thread alone that writes."""
        self._failing: set[str] = set()

    def __enter__(self) -> LogBook:
        self._aside.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._aside.__exit__(*error)
        if self._aside.is_over:
            for log in self._logs.values():
                with contextlib.suppress(OSError):  # there is nobody left to tell
                    log.close()

    def write(self, name: str, line: bytes) -> None:
        """Have a line, with its end, written into the log of a child."""
        self._aside.put(name, line)

    def forget(self, name: str) -> None:
        """Nothing more comes from a child."""
        self._aside.put(name, _NO_MORE)

    def _do(self, name: str, line: bytes) -> None:
        log = self._logs.pop(name, None) or LogFile(self._path_of(name))
        try:
            if line == _NO_MORE:
                log.close()
            else:
                self._logs[name] = log
                log.write(line)
            self._failing.discard(name)
        except OSError as e:
            if name not in self._failing:
                self._failing.add(name)
                with contextlib.suppress(RuntimeError):  # the run is over, and what hung has come back
                    self._loop.call_soon_threadsafe(functools.partial(self._on_failure, name, e))
