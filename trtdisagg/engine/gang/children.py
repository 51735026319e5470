"""The other ranks of an executor within somebody's program: processes that are started, watched and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from trtdisagg.cache.waiting import wait_out
from trtdisagg.engine.threads import in_daemon
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec

END_TIMEOUT_S = 10.0
"""For a rank that has been let go; then it is killed."""
_LONGEST_TMPDIR = 80
"""There is a socket in our directory, whose address must fit into 107 bytes."""


class Children:
    """Ranks 1 and up of one server. Made in the thread with which they are to end."""

    def __init__(self, specs: Sequence[EngineSpec], secret: bytes, directory: Path) -> None:
        self._directory = directory
        secret_file = str(self._write("secret", secret)) if secret else None
        common = {"gang_socket": str(directory / "gang"), "secret_file": secret_file}
        self.first, *others = [msgspec.structs.replace(spec, **common) for spec in specs]
        """The spec of rank 0."""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._watching: list[asyncio.Task[None]] = []
        self._ended: str | None = None
        self._needed_by: asyncio.Task[object] | None = None
        try:
            for spec in others:
                self._start(spec)
        except BaseException:
            self._kill()
            raise

    @contextlib.asynccontextmanager
    async def needed(self) -> AsyncIterator[None]:
        """Break off what is within the block when one of them ends.

        :raises StartupError: then, with its number.
        """
        self._needed_by = asyncio.current_task()
        try:
            if self._ended is None:
                yield
        except asyncio.CancelledError:
            if self._ended is None:
                raise
        finally:
            self._needed_by = None
        if self._ended is not None:
            raise StartupError(self._ended)

    async def close(self) -> None:
        """Wait until all have ended, which they do when rank 0 lets them go; kill who does not."""
        await wait_out(asyncio.gather(*self._watching, self._kill_late()))

    def _start(self, spec: EngineSpec) -> None:
        spec = msgspec.structs.replace(spec, parent_pid=os.getpid())
        path = self._write(f"rank-{spec.rank}.json", msgspec.json.encode(spec))
        command = [sys.executable, "-m", "trtdisagg.engine", "--spec", str(path)]
        # A session of its own: Ctrl-C is for the program, which then ends its ranks.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._processes[spec.rank] = process
        self._watching.append(asyncio.create_task(self._watch(spec.rank, process)))

    async def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = await in_daemon(process.wait, name=f"rank {rank}")
        self._ended = self._ended or f"rank {rank} has ended with exit code {code}; its last lines on stderr say why"
        if self._needed_by is not None:
            self._needed_by.cancel()

    async def _kill_late(self) -> None:
        await asyncio.wait(self._watching, timeout=END_TIMEOUT_S)
        self._kill()

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()

    def _write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        return path


@contextlib.asynccontextmanager
async def open_children(specs: Sequence[EngineSpec], secret: bytes) -> AsyncIterator[Children]:
    """Start the other ranks of a server, in this thread, and wait for their end.

    :param specs: of all ranks, in order.
    """
    place = None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="trtdisagg-", dir=place) as directory:
        children = Children(specs, secret, Path(directory))
        try:
            yield children
        finally:
            await children.close()
