"""The cluster looks after itself, with the real engine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helpers.cluster import Cluster
from helpers.waiting import until

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, in_float32: str) -> None:
    cluster = Cluster(tmp_path, in_float32)
    cluster.up()
    assert len(cluster.left_over()) >= 4
    os.kill(cluster.status()["agent_pid"], signal.SIGKILL)
    until(lambda: cluster.left_over() == [], "nothing is left", instead=cluster.left_over)
    assert cluster.run("status", str(cluster.file)).returncode == 3
