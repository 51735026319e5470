"""Many streams in flight and kill -9 again and again, of servers at random: no client sees an error or a wrong token,
and at the end all is as before."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.chaos import Scene, kill, scene
from helpers.cluster import REPOSITORY, Cluster
from helpers.ports import free_port
from helpers.traces import leaving_nothing, open_fds
from helpers.waiting import DEADLINE_S, until
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.timeout(600)

SEED = 20261122
NUM_TOKENS = 20
FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms"]


def cluster_text(port: int, num_servers: int, token_delay_ms: int) -> str:
    return f"""\
name: kills
model: fake-model
port: {port}
command: {[*FAKE, str(token_delay_ms)]}
context_servers: {{num_instances: {num_servers}}}
generation_servers: {{num_instances: {num_servers}}}
supervision: {{max_crashes: 1000, backoff_s: 0.2, max_backoff_s: 0.5}}
"""


def test_nobody_sees_that_servers_are_killed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    soak = request.config.getoption("--soak")
    num_clients, num_kills, interval_s, num_servers = (200, 30, 2.0, 3) if soak else (24, 4, 0.5, 2)
    port, rng = free_port(), random.Random(SEED)
    cluster = Cluster(tmp_path, cluster_text(port, num_servers, 200 if soak else 50))
    with leaving_nothing(cluster, {port}):
        with scene(cluster, num_clients, num_tokens=NUM_TOKENS) as it:
            proxy = psutil.Process(it.server("proxy")["pid"])
            fds, pace = Counter(open_fds(proxy.pid)), threading.Event()
            for _ in range(num_kills):
                pace.wait(interval_s)
                kill(victim(it, rng))(it)
            it.load.until(num_clients)
            it.check_agent()
        assert it.load.problems == []
        assert proxy.is_running()
        check_baseline(cluster, proxy, port)
        moved = metrics(cluster.url)["trtdisagg_proxy_migrations_total"]
        print(f"{num_kills} kills, {it.load.num_answered} streams, {moved:g} went on elsewhere")
        if soak:
            assert moved > num_kills
            until(lambda: open_fds(proxy.pid) <= fds, "connections are kept for 30 s after their last use")


def victim(it: Scene, rng: random.Random) -> str:
    """A server of a role that has another one that is ready."""
    while True:
        ready = [s["name"] for s in it.status["servers"] if s["state"] == "ready" and s["name"] != "proxy"]
        roles = Counter(name.partition("-")[0] for name in ready)
        if spare := [name for name in ready if roles[name.partition("-")[0]] > 1]:
            return rng.choice(spare)
        time.sleep(0.02)


def check_baseline(cluster: Cluster, proxy: psutil.Process, port: int) -> None:
    """Nothing is in flight, nothing is held, and no client is connected."""
    servers = [s["url"] for s in cluster.status()["servers"] if s["name"] != "proxy"]
    url = cluster.url

    def is_quiet() -> bool:
        now = metrics(url)
        states = [get(f"{server}/fake/state") for server in servers]
        idle = all(state["running"] == 0 and state["held_tickets"] == [] for state in states)
        in_flight = now["trtdisagg_proxy_requests_in_flight"] + now["trtdisagg_proxy_server_requests_in_flight"]
        return idle and in_flight == now["trtdisagg_proxy_requests_waiting"] == 0

    until(is_quiet, "nothing is in flight")
    until(lambda: not clients_of(proxy, port), "no client is connected")


def clients_of(proxy: psutil.Process, port: int) -> list[Any]:
    connections = proxy.net_connections("tcp")
    return [c for c in connections if c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED and c.raddr]


def metrics(url: str) -> Counter[str]:
    """Each summed over its labels."""
    sums: Counter[str] = Counter()
    with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE_S) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                sums[sample.name] += sample.value  # type: ignore[assignment]
    return sums


def get(url: str) -> Any:
    with urllib.request.urlopen(url if "//" in url else f"http://{url}", timeout=DEADLINE_S) as answer:
        return json.load(answer)
