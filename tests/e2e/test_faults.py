"""The cluster looks after itself, with the real engine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from helpers.cluster import Cluster, post, running

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]


def ask(cluster: Cluster) -> tuple[int, str]:
    body = {"model": "smollm2-135m-instruct", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
    status, answer = post(cluster.url + "/v1/completions", body)
    return status, answer["choices"][0]["text"] if status == 200 else str(answer)


def wait_for_restart(cluster: Cluster, name: str, old_pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        server = cluster.server(name)
        if server["state"] == "ready" and server["pid"] != old_pid:
            return
        time.sleep(0.2)
    raise AssertionError(cluster.status())


def test_killed_servers_come_back(tmp_path: Path, in_float32: str, num_rounds: int) -> None:
    # Many deaths in a short time would make pauses of a minute, and then an end.
    patient = "supervision: {max_crashes: 100, backoff_s: 0.2, max_backoff_s: 1}\n"
    with running(tmp_path, in_float32 + patient) as cluster:
        assert ask(cluster) == (200, " Paris.\n\n")
        for i, name in enumerate(["context-0", "generation-0", "proxy"] * num_rounds):
            pid = cluster.server(name)["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_for_restart(cluster, name, pid)
            assert ask(cluster) == (200, " Paris.\n\n"), name
            assert cluster.server(name)["restarts"] == i // 3 + 1


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, in_float32: str) -> None:
    cluster = Cluster(tmp_path, in_float32)
    cluster.up()
    assert len(cluster.left_over()) >= 4
    os.kill(cluster.status()["agent_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 15
    while (left := cluster.left_over()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    assert cluster.run("status", str(cluster.file)).returncode == 3
