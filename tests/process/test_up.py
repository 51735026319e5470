"""`up` before it starts anything, and beside a cluster that starts, runs or goes down already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, running

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
        done = cluster.run("up", *options)
    assert done.returncode == 1
    assert "This machine cannot run the cluster:" in done.stderr
    assert f"proxy cannot listen on 127.0.0.1:{port}: the port is in use by pid" in done.stderr
    assert cluster.left_over() == []
    assert not list(tmp_path.rglob("*.log"))


def test_two_who_bring_it_up_at_once_meet_one_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, text(0))
    command = [*TRTDISAGG, "up", "-d", "--wait"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env=cluster.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        for process in both:
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
            assert cluster.url in out + err
    finally:
        cluster.down("--force")
    assert cluster.left_over() == []


def test_a_cluster_that_goes_down_takes_no_other_wish(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, text(0, "supervision: {kill_timeout_s: 20}"))
    cluster.up()
    try:
        status = cluster.status()
        os.kill(next(s["pid"] for s in status["servers"] if s["name"] == "generation-0"), signal.SIGSTOP)
        os.kill(status["agent_pid"], signal.SIGTERM)
        cluster.wait_events("SIGTERM")
        for verb in (["up", "-d"], ["scale", "generation=2"], ["restart", "context-0"]):
            refused = cluster.run(*verb)
            assert refused.returncode == 1, refused
            assert "the cluster is going down (SIGTERM)" in refused.stderr
    finally:
        cluster.down("--force")
    assert cluster.left_over() == []


def test_who_does_not_wait_is_told_what_is_under_way(tmp_path: Path) -> None:
    with running(tmp_path, text(0)) as cluster:
        assert "context-0 is being drained" in cluster.run("drain", "context-0", "--no-wait").stderr
        assert "context-0 is restarted" in cluster.run("restart", "context-0").stderr
        assert (
            "becomes a generation server"
            in cluster.run("switch", "context-0", "--to", "generation", "--no-wait").stderr
        )
        cluster.wait_events("context-0: is free and takes the role generation")
        refused = cluster.run("scale", "generation=1", "generation=2")
        assert refused.returncode == 2
        assert "generation: one number, please, not 1 and 2" in refused.stderr
