"""A variant's cluster: `trtdisagg up` as a process of our own, while a block runs.

It ends with us, however we end; in order, when the block is left. What it says goes to a log file.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
from anyio.abc import Process

from trtdisagg.bench.program import MeasureError, ending
from trtdisagg.bench.tied import tied
from trtdisagg.protocol.control import ClusterStatus

PROGRAM = [sys.executable, "-m", "trtdisagg"]
_LOOK_AGAIN_S = 0.1
_ANSWER_TIMEOUT_S = 30.0
_DRAIN_TIMEOUT_S = 10
"""The load is over: nothing is to be finished but what a client left behind."""
_DOWN_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 20.0


class Cluster:
    """One that runs.

    :param file: its cluster file, which nobody else has brought up.
    :param url_file: is there while it can serve.
    :param log_file: where it writes, from `log_start` on.
    :ivar status: as it was when it could serve.
    """

    status: ClusterStatus

    def __init__(self, process: Process, file: Path, url_file: Path, log_file: Path, log_start: int) -> None:
        self._process = process
        self._file = file
        self._url_file = url_file
        self._log_file = log_file
        self._log_start = log_start

    async def until_ready(self, timeout_s: float) -> None:
        """
        :raises MeasureError: it ends, or is not ready in time; with its last words.
        """
        with anyio.move_on_after(timeout_s):
            while not self._url_file.exists():
                self.check_alive()
                with anyio.move_on_after(_LOOK_AGAIN_S):
                    await self._process.wait()
            if status := await ask(self._file):
                self.status = status
                return
            self.check_alive()
        raise MeasureError(f"its cluster is not ready after {timeout_s:g} s{self._last_words()}")

    def check_alive(self) -> None:
        """
        :raises MeasureError: it has ended.
        """
        if (code := self._process.returncode) is not None:
            manner = f"exit code {code}" if code >= 0 else f"signal {-code}"
            raise MeasureError(f"its cluster ended with {manner}{self._last_words()}")

    async def end(self) -> None:
        """In order; after that, or when nobody answers, with everything it has started."""
        with anyio.move_on_after(_DOWN_TIMEOUT_S):
            down = [*PROGRAM, "down", str(self._file), "--timeout", str(_DRAIN_TIMEOUT_S)]
            if self._process.returncode is None and (await _run(down)).returncode == 0:
                await self._process.wait()
        for signal in (self._process.terminate, self._process.kill):
            if self._process.returncode is None:
                signal()
                with anyio.move_on_after(_KILL_TIMEOUT_S):
                    await self._process.wait()

    def _last_words(self) -> str:
        return ending(self._log_file.read_bytes()[self._log_start :])


@contextlib.asynccontextmanager
async def running(file: Path, log_file: Path, ready_timeout_s: float) -> AsyncIterator[Cluster]:
    """A cluster that can serve, on any port that is free. To be called in the main thread.

    :raises MeasureError: it ends, or is not ready in time; with its last words.
    """
    url_file = file.parent / "url"
    url_file.unlink(missing_ok=True)  # of one that was killed
    command = [*PROGRAM, "up", str(file), "--no-tui", "--set", "port=0", "--run-dir", str(file.parent)]
    with log_file.open("ab") as log:
        log_start = log.tell()
        process = await anyio.open_process(
            tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    cluster = Cluster(process, file, url_file, log_file, log_start)
    try:
        await cluster.until_ready(ready_timeout_s)
        yield cluster
    finally:
        with anyio.CancelScope(shield=True):
            await cluster.end()


async def ask(file: Path) -> ClusterStatus | None:
    """How the cluster of a file is; None: it does not answer."""
    done = await _run([*PROGRAM, "status", str(file), "--json"])
    return msgspec.json.decode(done.stdout, type=ClusterStatus) if done.returncode == 0 else None


async def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """A command of ours, in a session of its own: Ctrl-C is for this process."""
    with anyio.move_on_after(_ANSWER_TIMEOUT_S + _DRAIN_TIMEOUT_S):
        return await anyio.run_process(
            tied(command), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, start_new_session=True
        )
    return subprocess.CompletedProcess(command, returncode=1, stdout=b"")
