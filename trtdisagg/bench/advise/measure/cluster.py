"""A cluster of its own for a measurement: brought up by `trtdisagg up`, in directories that end with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from trtdisagg.bench.program import MeasureError
from trtdisagg.config.load import load
from trtdisagg.config.written import written
from trtdisagg.protocol.control import ClusterStatus, ServerStatus

_TRTDISAGG = [sys.executable, "-m", "trtdisagg"]
_DOWN_S = 60.0


class Running(NamedTuple):
    """A cluster that can serve."""

    status: ClusterStatus
    secret: str

    def server(self, role: str) -> ServerStatus:
        return next(server for server in self.status.servers if server.role == role)


@contextlib.contextmanager
def brought_up(file: Path, overrides: list[str], *, timeout_s: float) -> Iterator[Running]:
    """A cluster while the context lasts, beside whatever else runs: its port is free, its directories its own.

    :param overrides: on top of what the file says.
    :raises MeasureError: it does not come up, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="advise-") as name:
        directory = Path(name)
        secret = secrets.token_hex(32)
        with open(os.open(directory / "secret", os.O_WRONLY | os.O_CREAT, 0o600), "w") as secret_file:
            secret_file.write(secret)
        own = ["port=0", "hostname=localhost", "name=advise", f"secret_file={directory / 'secret'}"]
        cluster = directory / "cluster.yaml"
        cluster.write_text(written(load(file, [*overrides, *own])))
        env = {**os.environ, "XDG_RUNTIME_DIR": str(directory / "run"), "XDG_STATE_HOME": str(directory / "state")}
        (directory / "run").mkdir(mode=0o700)
        try:
            _run(["up", str(cluster), "-d", "--wait-timeout", f"{timeout_s:g}"], env, timeout_s=timeout_s + _DOWN_S)
            status = _run(["status", str(cluster), "--json"], env, timeout_s=_DOWN_S)
            yield Running(msgspec.json.decode(status, type=ClusterStatus), secret)
        finally:
            with contextlib.suppress(MeasureError):
                _run(["down", str(cluster), "-t", "5"], env, timeout_s=_DOWN_S)


def _run(words: list[str], env: dict[str, str], *, timeout_s: float) -> bytes:
    """:raises MeasureError: it fails, with its last words."""
    try:
        done = subprocess.run([*_TRTDISAGG, *words], env=env, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise MeasureError(f"`trtdisagg {words[0]}` was not done after {timeout_s:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise MeasureError(f"`trtdisagg {words[0]}` failed: {said}", done.returncode)
    return done.stdout
