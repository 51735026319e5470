"""Who holds the runtime directory of a cluster, and which clusters run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from trtdisagg.errors import AlreadyRunningError, StartupError
from trtdisagg.files import write_whole
from trtdisagg.supervisor import guardian
from trtdisagg.supervisor.place import Place, all_places, places_of

_CLEARING_TIMEOUT_S = 20.0
"""How long the guardian of a killed agent may take to clear up behind it."""


def find(key: str | Path, env: Mapping[str, str] = os.environ) -> Place | None:
    """The place of the cluster that was last started from this file, under whatever name; None: there was none."""
    known = places_of(key, env)
    running = [place for place in known if running_pid(place) is not None]
    return next(iter(running or known), None)


def find_by_name(name: str, env: Mapping[str, str] = os.environ) -> list[Place]:
    """The places of all clusters of this name that run, or of the one whose runtime directory is called so."""
    running = find_running(env)
    exact = [place for place in running if place.run_dir.name == name]
    return exact or [place for place in running if place.is_called(name)]


def find_running(env: Mapping[str, str] = os.environ) -> list[Place]:
    """The places of all clusters of this user that run."""
    return [place for place in all_places(env) if running_pid(place) is not None]


def running_pid(place: Place) -> int | None:
    """Pid of the agent that holds the place; None: nobody does."""
    try:
        fd = os.open(place.lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _owner(fd)[0] if not _try_lock(fd, fcntl.LOCK_SH) else None
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold(place: Place, run_id: str) -> Iterator[int]:
    """Create the run directory and keep everybody else out; on exit it is removed.

    Yields the locked descriptor: whoever inherits it holds the place on.

    :raises AlreadyRunningError: when another agent holds it.
    :raises StartupError: when it cannot be made, or is not safe.
    """
    _make_private(place.run_dir.parent)
    fd = _locked(place)
    try:
        _clear_remains(place, fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {run_id}\n".encode(), 0)
        yield fd
    finally:
        guardian.remove_directory(str(place.run_dir))
        os.close(fd)


def make_log_dir(place: Place) -> None:
    """
    :raises StartupError: when it cannot be made.
    """
    try:
        place.log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise StartupError(
            f"The directory for logs, {place.log_dir}, cannot be made: {e.strerror}; set XDG_STATE_HOME"
        ) from e


def make_secret(place: Place, secret: bytes | None = None) -> Path:
    """
    :param secret: one that others know already; None: a new one.
    """
    write_whole(place.secret_file, secret or secrets.token_hex(32).encode())
    return place.secret_file


# --- the lock -------------------------------------------------------------------------------------------------------


def _locked(place: Place) -> int:
    deadline = time.monotonic() + _CLEARING_TIMEOUT_S
    while True:
        _make_private(place.run_dir)
        try:
            fd = os.open(place.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the last holder removed the directory just now
        is_ours = _try_lock(fd, fcntl.LOCK_EX)
        if is_ours and _still_there(fd, place.lock_file):
            return fd
        pid = _owner(fd)[0]
        os.close(fd)
        if not is_ours and ((pid is not None and _exists(pid)) or time.monotonic() > deadline):
            raise AlreadyRunningError(f"The cluster runs already: pid {pid} holds {place.run_dir}", pid=pid)
        time.sleep(0.02)  # a killed agent's guardian clears up behind it; a lock cannot be awaited with a deadline


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(fd: int, path: Path) -> bool:
    """Whether the locked file is the one that others see: its last holder may have removed it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _owner(fd: int) -> tuple[int | None, str | None]:
    """Pid and run id written in a lock file."""
    words = os.pread(fd, 200, 0).decode(errors="replace").split()
    return (int(words[0]), words[1]) if len(words) == 2 and words[0].isdigit() else (None, None)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _clear_remains(place: Place, fd: int) -> None:
    """Where agent and guardian were killed together, their children may still be there: they bear the run's mark."""
    guardian.remove_files(str(place.run_dir))
    _, run_id = _owner(fd)
    if run_id is not None:
        guardian.sweep(run_id, timeout_s=_CLEARING_TIMEOUT_S)


def _make_private(path: Path) -> None:
    """Make a directory that is ours alone.

    :raises StartupError: when something else is in its place: in /tmp anybody may have put it there.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as e:
        raise StartupError(f"The runtime directory {path} cannot be made: {e.strerror}") from e
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StartupError(
            f"{path} is not a directory that only this user may enter; remove it, or set XDG_RUNTIME_DIR"
        )
