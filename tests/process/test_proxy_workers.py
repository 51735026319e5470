"""Several processes of one proxy, on fake engines: they share an address, and each comes, dies and goes by itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, running
from helpers.load import Load
from helpers.ports import free_port
from helpers.waiting import until

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms", "5"]


def text(port: int, num_workers: int) -> str:
    return f"""\
name: workers
model: fake-model
port: {port}
command: {FAKE}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 2, router: {{type: load_balancing}}}}
supervision: {{backoff_s: 0.2, kill_timeout_s: 5}}
proxy: {{num_workers: {num_workers}}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("workers"), text(free_port(), 3)) as it:
        yield it


def proxies(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {s["name"]: s for s in cluster.status()["servers"] if s["role"] == "proxy"}


def get(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith("{") else text


def requests_counted(cluster: Cluster) -> float:
    """As a page says it, which any of the processes may have answered."""
    lines = get(f"{cluster.url}/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("trtdisagg_proxy_requests_total"))


def ready(cluster: Cluster) -> list[str]:
    return [name for name, proxy in proxies(cluster).items() if proxy["state"] == "ready"]


def test_one_that_is_killed_loses_its_own_requests_only(cluster: Cluster) -> None:
    assert ready(cluster) == ["proxy-0", "proxy-1", "proxy-2"]
    with Load(cluster.url, 12).running() as load:
        load.until(24)
        own = frozen_connections(proxies(cluster)["proxy-1"]["pid"], cluster.url)
        os.kill(proxies(cluster)["proxy-1"]["pid"], signal.SIGKILL)
        load.until(100)
        until(lambda: len(ready(cluster)) == 3, "a successor", instead=cluster.logs)
    broken = [p for p in load.problems if "ServerDisconnected" in p or "ClientPayload" in p or "ClientOS" in p]
    assert load.problems == broken
    assert len(broken) <= own, "the others went on"


def frozen_connections(pid: int, url: str) -> int:
    """How many clients a process has, which gets no others any more. It may have all of them, or none."""
    process = psutil.Process(pid)
    process.suspend()
    port = int(url.rpartition(":")[2])
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in process.net_connections("tcp"))


def test_whoever_is_asked_tells_what_all_have_counted(cluster: Cluster) -> None:
    before = requests_counted(cluster)
    with Load(cluster.url, 8).running() as load:
        load.until(40)
    until(lambda: all(requests_counted(cluster) == before + load.num_answered for _ in range(6)), "every page")
    stopped = proxies(cluster)["proxy-2"]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert requests_counted(cluster) == before + load.num_answered, "its last numbers"
    finally:
        os.kill(stopped, signal.SIGKILL)
    until(lambda: len(ready(cluster)) == 3, "a successor", instead=cluster.logs)
    assert requests_counted(cluster) == before + load.num_answered, "those of one that is gone"


def test_work_of_one_process_counts_for_all(cluster: Cluster) -> None:
    """On two generation servers, a request at a time: each goes to the one that has nothing to do, whoever routes."""
    servers = [s["url"] for s in cluster.status()["servers"] if s["role"] == "generation"]
    counted = [get(f"http://{url}/fake/state")["generation"] for url in servers]
    for url in servers:
        get(f"http://{url}/fake/hold", b"")

    def taken() -> list[int]:
        states = [get(f"http://{url}/fake/state") for url in servers]
        return [now["generation"] - then for now, then in zip(states, counted, strict=True)]

    with contextlib.ExitStack() as stack:
        loads = []
        for number in range(1, 9):
            loads.append(stack.enter_context(Load(cluster.url, 1).running()))
            until(lambda number=number: sum(taken()) == number, "the next request", instead=taken)  # type: ignore[misc]
        there = taken()
        for url in servers:
            get(f"http://{url}/fake/go", b"")
        for load in loads:
            load.until(1)
    assert there == [4, 4]


def test_a_restart_replaces_one_after_the_other_and_loses_nothing(cluster: Cluster) -> None:
    before = {name: proxy["pid"] for name, proxy in proxies(cluster).items()}
    with Load(cluster.url, 6).running() as load:
        load.until(6)
        done = cluster.run("restart", str(cluster.file), "proxy", "--rolling")
        assert done.returncode == 0, done.stderr
        load.until(6)
    assert load.problems == []
    after = {name: proxy["pid"] for name, proxy in proxies(cluster).items()}
    assert after.keys() == before.keys()
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize(("num", "names"), [(1, ["proxy"]), (2, ["proxy-0", "proxy-1"])])
def test_their_number_is_changed_while_clients_ask(cluster: Cluster, num: int, names: list[str]) -> None:
    with Load(cluster.url, 4).running() as load:
        load.until(4)
        cluster.file.write_text(text(int(cluster.url.rpartition(":")[2]), num))
        done = cluster.run("up", str(cluster.file), "-d", "--wait")
        assert done.returncode == 0, done.stderr
        load.until(4)
    assert load.problems == []
    until(lambda: list(proxies(cluster)) == names, "the others gone", instead=cluster.logs)


def test_started_by_hand_it_starts_its_processes(cluster: Cluster) -> None:
    urls = {role: [s["url"] for s in cluster.status()["servers"] if s["role"] == role] for role in ("generation",)}
    port = free_port()
    file = cluster.directory / "hand.yaml"
    file.write_text(f"port: {port}\nnum_workers: 2\ngeneration_servers: {{urls: {urls['generation']}}}\n")
    command = [*TRTDISAGG, "proxy", "-c", str(file)]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        seen = ""
        while not all(f"proxy-{i}: ready on" in seen for i in range(2)):
            line = proxy.stdout.readline()
            assert line, f"it ended: {seen}"
            seen += line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
            assert answer.status == 200
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(60) == 128 + signal.SIGTERM
