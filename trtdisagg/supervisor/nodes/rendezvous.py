"""How node agents find the head: a file in a directory that all nodes see.

    DIR/head.json     0600, there while the head lacks a node agent: where it listens, and the run's secret

What lies there from an earlier run leads nowhere, and is replaced when the head of this one comes: whoever cannot get
in looks again until its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskStatus

from trtdisagg.errors import StartupError
from trtdisagg.files import write_whole
from trtdisagg.net import join_address
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.supervisor.place import state_base

_FILE = "head.json"
_WITHDRAW_S = 5.0


class Rendezvous(msgspec.Struct, kw_only=True, frozen=True):
    """Where the head of a run is."""

    wire_version: int = WIRE_VERSION
    host: str
    port: int
    secret: str | None
    """None: it is in a file that every node reads."""

    @property
    def where(self) -> str:
        """For messages."""
        return join_address(self.host, self.port)


def default_directory(job_id: str, step_id: str, env: Mapping[str, str] = os.environ) -> Path:
    """Of a step of a Slurm job, under the user's state directory, which clusters usually share."""
    return state_base(env) / "slurm" / f"{job_id}.{step_id}"


@contextlib.asynccontextmanager
async def announced(directory: Path, rendezvous: Rendezvous) -> AsyncIterator[None]:
    """Have node agents find the head; on exit they find nothing any more. A file system that hangs holds nobody up.

    :raises StartupError: when the directory cannot be written.
    """
    file, content = directory / _FILE, msgspec.json.encode(rendezvous)
    try:
        try:
            await _in_thread(_write, file, content)
        except OSError as e:
            what = f"{file}, where the other nodes look for the head, cannot be written"
            raise StartupError(f"{what}: {e.strerror}") from e
        yield
    finally:
        with anyio.move_on_after(_WITHDRAW_S, shield=True):
            await _in_thread(_withdraw, file, content)


class Head(Protocol):
    """The part of `NodeLinks` that is needed here."""

    on_notice: Callable[[str], None]

    @property
    def is_complete(self) -> bool: ...

    async def until(self, is_so: Callable[[], bool]) -> None: ...


async def stay_findable(head: Head, directory: Path, where: Rendezvous, *, task_status: TaskStatus[None]) -> None:
    """Until cancelled, have node agents find a head whenever one is missing; it is started when the first may look.

    :raises StartupError: when the directory cannot be written at the beginning; later that is told, and all goes on.
    """
    async with announced(directory, where):
        task_status.started()
        await head.until(lambda: head.is_complete)
    while True:
        await head.until(lambda: not head.is_complete)
        try:
            async with announced(directory, where):
                await head.until(lambda: head.is_complete)
        except StartupError as e:
            head.on_notice(e.message)
            await head.until(lambda: head.is_complete)


async def _in_thread(work: Callable[[Path, bytes], None], file: Path, content: bytes) -> None:
    """As anyio does it, but in a thread that does not keep this process from ending while it hangs."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[OSError | None] = loop.create_future()

    def tell(error: OSError | None) -> None:
        if not over.done():
            over.set_result(error)

    def run() -> None:
        error = None
        try:
            work(file, content)
        except OSError as e:
            error = e
        finally:
            with contextlib.suppress(RuntimeError):  # all is over, and what hung has come back
                loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="rendezvous", daemon=True).start()
    if (error := await over) is not None:
        raise error


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(file, content)


def _withdraw(file: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):
        if file.read_bytes() == content:
            file.unlink()
            file.parent.rmdir()


def look(directory: Path) -> Rendezvous | None:
    """What is there now; None: nothing, or what has been replaced just now.

    :raises StartupError: when it cannot be read, or somebody else may have written it.
    """
    file = directory / _FILE
    try:
        content, is_ours = _read(file)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise StartupError(f"{file}, which tells where the head is, cannot be read: {e.strerror}") from e
    if not is_ours:
        raise StartupError(f"{file}, which tells where the head is, is not this user's alone")
    try:
        return msgspec.json.decode(content, type=Rendezvous)
    except msgspec.DecodeError as e:
        raise StartupError(f"{file}, which tells where the head is, is of another release: {e}") from e


def _read(file: Path) -> tuple[bytes, bool]:
    """
    :returns: what is in it, and whether nobody else can have written or read that.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as opened:
        status = os.fstat(fd)
        return opened.read(), status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
