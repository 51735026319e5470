"""`up` before it starts anything, and beside a cluster that starts, runs or goes down already."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from helpers.cluster import REPOSITORY, Cluster

pytestmark = pytest.mark.timeout(60)

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]


def text(port: int, more: str = "") -> str:
    return f"""\
name: up
model: fake-model
port: {port}
command: {FAKE}
generation_servers: {{num_instances: 1}}
context_servers: {{num_instances: 1}}
{more}
"""


@pytest.mark.parametrize("options", [["-d", "--wait"], ["--no-tui"]])
def test_what_this_machine_cannot_carry_is_said_before_anything_starts(tmp_path: Path, options: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = Cluster(tmp_path, text(port))
        done = cluster.run("up", *options, timeout_s=20)
    assert done.returncode == 1
    assert "This machine cannot run the cluster:" in done.stderr
    assert f"proxy cannot listen on 127.0.0.1:{port}: the port is in use by pid" in done.stderr
    assert cluster.left_over() == []
    assert not list(tmp_path.rglob("*.log"))
