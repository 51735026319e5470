"""A cluster of many servers comes up, every one of them is routed to, and it goes down clean."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from helpers.cluster import running
from helpers.load import Load
from helpers.waiting import DEADLINE_S
from measure_supervisor import many


@pytest.fixture
def num_servers(request: pytest.FixtureRequest) -> int:
    return 64 if request.config.getoption("--soak") else 16


def num_legs(address: str) -> int:
    """How many legs of requests a server has had."""
    with urllib.request.urlopen(f"http://{address}/fake/state", timeout=DEADLINE_S) as answer:
        counters = json.load(answer)
    return int(counters["context"] + counters["generation"] + counters["aggregated"])


def test_many_servers_come_up_serve_and_leave_nothing(tmp_path: Path, num_servers: int) -> None:
    with running(tmp_path, many(num_servers)) as cluster:
        servers = cluster.status()["servers"]
        assert len(servers) == num_servers + 1
        with Load(cluster.url, num_servers).running() as load:
            load.until(8 * num_servers)
        assert load.problems == []
        assert [s["name"] for s in servers if s["role"] != "proxy" and not num_legs(s["url"])] == []
