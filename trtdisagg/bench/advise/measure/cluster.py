"""A cluster of its own for a measurement: its port is free, its secret known here, its directory gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trtdisagg.bench.sweep.cluster import running
from trtdisagg.config.load import load
from trtdisagg.config.written import written
from trtdisagg.protocol.control import ClusterStatus, ServerStatus


class Running(NamedTuple):
    """A cluster that can serve."""

    status: ClusterStatus
    secret: str

    def server(self, role: str) -> ServerStatus:
        return next(server for server in self.status.servers if server.role == role)


@contextlib.asynccontextmanager
async def brought_up(file: Path, overrides: Sequence[str], *, timeout_s: float) -> AsyncIterator[Running]:
    """A cluster while the context lasts, beside whatever else runs. To be called in the main thread.

    :param overrides: on top of what the file says.
    :raises MeasureError: it does not come up, with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="advise-") as name:
        directory = Path(name)
        secret, cluster = secrets.token_hex(32), directory / "cluster.yaml"
        own = ["hostname=localhost", "name=advise", f"secret_file={_kept(secret, directory / 'secret')}"]
        cluster.write_text(written(load(file, [*overrides, *own])))
        async with running(cluster, directory / "log", timeout_s) as found:
            yield Running(found.status, secret)


def _kept(secret: str, file: Path) -> Path:
    """Where nobody else can read it."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as opened:
        opened.write(secret)
    return file
