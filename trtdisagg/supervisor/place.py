"""Where a cluster's sockets, lock, spec files and logs lie.

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

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trtdisagg.supervisor import guardian

SERVICES = Path("/run/trtdisagg")
"""Where the runtime directories of system services are, each its user's alone: a unit file of ours says so."""

_TEMPORARY = Path("/tmp")  # noqa: S108 (who owns what is in it is checked)
_MAX_SOCKET_PATH = 107
"""What Linux takes as the address of a unix socket."""
_LONGEST_SOCKET = "members-99999.sock"
"""The name that must fit."""


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

    def is_called(self, name: str) -> bool:
        return self.run_dir.name.rpartition("-")[0] == _safe(name)

    def spec_file(self, name: str) -> Path:
        return self.run_dir / f"{name}.json"

    def log_file(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"


def places_of(key: str | Path, env: Mapping[str, str]) -> list[Place]:
    """Where a cluster of this file may be, or have been, under whatever name."""
    pattern = f"*-{_digest(key)}"
    return [*all_places(env, pattern), *(_place(path.name, env) for path in state_base(env).glob(pattern))]


def all_places(env: Mapping[str, str], pattern: str = "*-*") -> Iterator[Place]:
    """Wherever an agent of this user may have made a runtime directory: a service has another environment than we."""
    for base in (*_runtime_bases(env), *_service_bases()):
        for path in base.glob(pattern):
            yield Place(path, _log_dir(path.name, env))


def _place(directory: str, env: Mapping[str, str]) -> Place:
    return Place(_runtime_base(env, directory) / directory, _log_dir(directory, env))


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


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:24] or "cluster"


def _digest(key: str | Path) -> str:
    text = str(key.resolve()) if isinstance(key, Path) else key
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
