"""Where a cluster's sockets, lock, spec files and logs lie, and who holds them.

    $XDG_RUNTIME_DIR/trtdisagg/NAME-KEY/     (or /tmp/trtdisagg-UID/NAME-KEY/)   0700, gone when the cluster is; that of
                                             a system service is /run/trtdisagg/SERVICE
        lock            pid and run id of the agent; flocked as long as the agent, or its guardian, lives
        control.sock    the agent's         mN.sock  that of the proxy's N-th incarnation, m-W.N.sock of its worker W
        secret          the cluster's, where the file names none
        loads           what the processes of a proxy have in flight
        *.json          spec files of the children
        gKEY.sock       where the ranks of a server meet
    $XDG_STATE_HOME/trtdisagg/NAME-KEY/logs/ (or ~/.local/state/...)             stays

KEY is made from the path of the cluster file, so every command finds the cluster of a file, whatever is in it by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trtdisagg.errors import AlreadyRunningError, StartupError
from trtdisagg.supervisor import guardian

SERVICES = Path("/run/trtdisagg")
"""Where the runtime directories of system services are, each its user's alone: a unit file of ours says so."""

_TEMPORARY = Path("/tmp")  # noqa: S108 (who owns what is in it is checked)
_MAX_SOCKET_PATH = 107
"""What Linux takes as the address of a unix socket."""
_LONGEST_SOCKET = "members-99999.sock"
"""The name that must fit."""
_CLEARING_TIMEOUT_S = 20.0
"""How long the guardian of a killed agent may take to clear up behind it."""


class Place(msgspec.Struct, frozen=True):
    """The directories of one cluster; nothing is created by naming them."""

    run_dir: Path
    log_dir: Path

    @staticmethod
    def of(key: str | Path, name: str, env: Mapping[str, str] = os.environ) -> Place:
        """The place of a cluster.

        :param key: path of the cluster file; without a file, any string that is this cluster's alone.
        :param name: for people.
        """
        return _place(f"{_safe(name)}-{_digest(key)}", env)

    @property
    def lock_file(self) -> Path:
        return self.run_dir / guardian.LOCK

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control.sock"

    def members_socket(self, incarnation: str) -> Path:
        """Of one incarnation of the proxy: an old one may still finish its work while the next is there."""
        return self.run_dir / f"m{incarnation.rpartition('proxy')[2].lstrip('.')}.sock"

    @property
    def load_file(self) -> Path:
        return self.run_dir / "loads"

    def gang_socket(self, incarnation: str) -> Path:
        """Where the ranks of one incarnation of a server meet; names of servers may be too long for an address."""
        return self.run_dir / f"g{_digest(incarnation)}.sock"

    @property
    def secret_file(self) -> Path:
        return self.run_dir / "secret"

    def spec_file(self, name: str) -> Path:
        return self.run_dir / f"{name}.json"

    def log_file(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"


def find(key: str | Path, env: Mapping[str, str] = os.environ) -> Place | None:
    """The place of the cluster that was last started from this file, under whatever name; None: there was none."""
    pattern = f"*-{_digest(key)}"
    known = [*_known(pattern, env), *(_place(path.name, env) for path in state_base(env).glob(pattern))]
    running = [place for place in known if running_pid(place) is not None]
    return next(iter(running or known), None)


def find_by_name(name: str, env: Mapping[str, str] = os.environ) -> list[Place]:
    """The places of all clusters of this name that run, or of the one whose runtime directory is called so."""
    running = find_running(env)
    exact = [place for place in running if place.run_dir.name == name]
    return exact or [place for place in running if place.run_dir.name.rpartition("-")[0] == _safe(name)]


def find_running(env: Mapping[str, str] = os.environ) -> list[Place]:
    """The places of all clusters of this user that run."""
    return [place for place in _known("*-*", env) if running_pid(place) is not None]


def _known(pattern: str, env: Mapping[str, str]) -> Iterator[Place]:
    """Wherever an agent of this user may have made a runtime directory: a service has another environment than we."""
    for base in (*_runtime_bases(env), *_service_bases()):
        for path in base.glob(pattern):
            yield Place(path, _log_dir(path.name, env))


def _place(directory: str, env: Mapping[str, str]) -> Place:
    return Place(_runtime_base(env, directory) / directory, _log_dir(directory, env))


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


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)  # what somebody else may have put there is not written to
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    temporary.rename(path)


def make_secret(place: Place, secret: bytes | None = None) -> Path:
    """
    :param secret: one that others know already; None: a new one.
    """
    write_private(place.secret_file, secret or secrets.token_hex(32).encode())
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


# --- directories ----------------------------------------------------------------------------------------------------


def _runtime_bases(env: Mapping[str, str]) -> list[Path]:
    fallback = _TEMPORARY / f"trtdisagg-{os.geteuid()}"
    xdg = env.get("XDG_RUNTIME_DIR")
    return [Path(xdg) / "trtdisagg", fallback] if xdg and Path(xdg).is_dir() else [fallback]


def _runtime_base(env: Mapping[str, str], directory: str) -> Path:
    """The preferred base in which the addresses of sockets are not too long."""
    bases = _runtime_bases(env)
    return next((b for b in bases if len(os.fsencode(b / directory / _LONGEST_SOCKET)) <= _MAX_SOCKET_PATH), bases[-1])


def _service_bases() -> list[Path]:
    """Of this user's services; root would see those of all."""
    return [path / "trtdisagg" for path in SERVICES.glob("*") if _is_mine(path)]


def _is_mine(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:  # it is gone by now
        return False


def _log_dir(directory: str, env: Mapping[str, str]) -> Path:
    return state_base(env) / directory / "logs"


def state_base(env: Mapping[str, str]) -> Path:
    """Where what outlives runs is."""
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "trtdisagg"


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


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:24] or "cluster"


def _digest(key: str | Path) -> str:
    text = str(key.resolve()) if isinstance(key, Path) else key
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
