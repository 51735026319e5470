"""`up -d`: the same program again, detached, and waiting for it from outside."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from trtdisagg.errors import NotReadyInTimeError, NotRunningError, StartupError
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place

LOG_NAME = "agent"
_NUM_LAST_LINES = 20
_LOOK_AGAIN_S = 0.1
_ANSWER_TIMEOUT_S = 10.0
"""From taking a cluster's lock to answering at its socket, and from the socket's end to the lock's."""


class Background:
    """A detached agent, watched until it can be left alone.

    :param file: absolute path of the cluster file.
    :param overrides: `KEY=VALUE` in place of what it says.
    """

    def __init__(self, file: Path, place: Place, overrides: Sequence[str] = ()) -> None:
        self._place = place
        rundir.make_log_dir(place)
        self._log_file = place.log_file(LOG_NAME)
        options = [word for override in overrides for word in ("--set", override)]
        with open(self._log_file, "ab", opener=_private) as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trtdisagg", "up", str(file), "--no-tui", "--detached", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Say what it said, and exit as it did, when it has ended."""
        code = self._process.poll()
        if code is not None:
            lines = self._log_file.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
            for line in lines[-_NUM_LAST_LINES:]:
                click.echo(line, err=True)
            raise click.exceptions.Exit(code if code >= 0 else 128 - code)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def wait_for(
    place: Place, background: Background | None, *, until_ready: bool, timeout_s: float | None
) -> ClusterStatus:
    """Wait until the agent answers, or until its cluster can serve. The agent itself sees to it that this has an end.

    :param background: the agent, where it was started here.
    :raises NotReadyInTimeError: after `timeout_s`; the cluster goes on starting, and can be asked.
    :raises StartupError: the cluster goes down instead.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while True:
        if background:
            background.check_alive()
        status = _status(place, is_starting=background is not None)
        if status and (status.state == "ready" or (not until_ready and not status.url.endswith(":0"))):
            return status
        if status and background is None and status.state in ("stopping", "failed"):
            raise StartupError(f"{status.cluster} is going down: {status.reason}")
        if (
            status
            and status.state == "degraded"
            and (failed := [s.name for s in status.servers if s.state == "failed"])
        ):
            raise StartupError(f"{', '.join(failed)} failed, the others serve; see `trtdisagg status`")
        if time.monotonic() >= deadline + (0.0 if status else _ANSWER_TIMEOUT_S):
            raise NotReadyInTimeError(f"not ready after {timeout_s:g} s; it goes on starting, see `trtdisagg status`")
        time.sleep(_LOOK_AGAIN_S)


def wait_for_answer(place: Place) -> ClusterStatus:
    """Wait for the first answer of an agent that may have only just taken its place, or be about to leave it.

    :raises NotRunningError: it has ended, or does not answer within the deadline.
    """
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        try:
            return ControlClient(place).status()
        except NotRunningError:
            if rundir.running_pid(place) is None or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_AGAIN_S)


def _status(place: Place, *, is_starting: bool) -> ClusterStatus | None:
    try:
        return ControlClient(place).status()
    except NotRunningError:
        if is_starting:
            return None
        raise
