"""What a command of the program tells line by line, for tests that wait until it has said something."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from helpers.cluster import TRTDISAGG, Cluster

Told = dict[str, Any]


class Follower:
    """Runs a command that prints an object a line, until it ends or is ended.

    :ivar told: what it has said.
    """

    def __init__(self, cluster: Cluster, *command: str) -> None:
        self.told: list[Told] = []
        self._words = " ".join(command)
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [*TRTDISAGG, command[0], str(cluster.file), *command[1:]],
            cwd=cluster.directory,
            env=cluster.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self, is_it: Callable[[Told], bool], *, since: int = 0, timeout_s: float) -> Told | None:
        """Wait for the first object that is it.

        :param since: so many are not looked at.
        :returns: None when the deadline came first.
        """
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                for told in self.told[since:]:
                    if is_it(told):
                        return told
                since = len(self.told)
                if not self._news.wait(deadline - time.monotonic()):
                    return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.told.append(json.loads(line))
                self._news.notify_all()
