"""The verbs of a running cluster, on fake engines under load: whatever is done in order loses no request."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.cluster import REPOSITORY, Cluster, running
from helpers.load import Load
from helpers.ports import free_port
from helpers.waiting import until

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms", "20"]


def cluster_text(num_context: int, num_generation: int, more: str = "") -> str:
    return f"""\
name: verbs
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: {num_context}}}
generation_servers: {{num_instances: {num_generation}}}
supervision: {{backoff_s: 0.2, kill_timeout_s: 5, stall_timeout_s: 6}}
{more}
"""


@pytest.fixture(scope="module")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("verbs"), cluster_text(2, 2)) as it:
        yield it


@pytest.fixture
def cluster(one_cluster: Cluster) -> Cluster:
    """The cluster as its file describes it, whatever the test before left."""
    if states(one_cluster) != FOUR:
        done(one_cluster, "up", "-d", "--wait")
    return one_cluster


def done(cluster: Cluster, *args: str) -> str:
    """Run a command that must succeed; what it said."""
    result = cluster.run(*args)
    assert result.returncode == 0, result.stderr + cluster.logs()
    return result.stdout + result.stderr


def servers(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {s["name"]: s for s in cluster.status()["servers"]}


def states(cluster: Cluster) -> dict[str, str]:
    return {name: f"{s['role']} {s['state']}" for name, s in servers(cluster).items() if name != "proxy"}


def metric(cluster: Cluster, name: str) -> float:
    """Sum of a series over its labels."""
    with urllib.request.urlopen(f"{cluster.url}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


FOUR = {
    "context-0": "context ready",
    "context-1": "context ready",
    "generation-0": "generation ready",
    "generation-1": "generation ready",
}


def test_a_rolling_restart_loses_nothing_and_repeats_no_prefill(cluster: Cluster) -> None:
    before = servers(cluster)
    retries = metric(cluster, "trtdisagg_proxy_retries_total")
    with Load(cluster.url, 8).running() as load:
        load.until(10)
        done(cluster, "restart", "--rolling", "context-0", "generation-0", "context-1", "generation-1")
        load.until(10)
    assert load.problems == []
    after = servers(cluster)
    assert all(after[name]["pid"] != before[name]["pid"] for name in FOUR)
    assert after["proxy"]["pid"] == before["proxy"]["pid"]
    assert metric(cluster, "trtdisagg_proxy_retries_total") == retries


def test_the_proxy_is_replaced_without_a_gap(cluster: Cluster) -> None:
    before = servers(cluster)["proxy"]["pid"]
    with Load(cluster.url, 8).running() as load:
        load.until(10)
        done(cluster, "restart", "proxy")
        load.until(10)
    assert load.problems == []
    assert servers(cluster)["proxy"]["pid"] != before
    assert set(servers(cluster)) == {"proxy", *FOUR}


def test_scaling_up_and_down_loses_nothing(cluster: Cluster) -> None:
    with Load(cluster.url, 8).running() as load:
        load.until(10)
        said = done(cluster, "scale", "context=1", "generation=3")
        assert "generation-2 is added" in said
        assert "context-1 is removed" in said
        assert states(cluster)["generation-2"] == "generation ready"
        # What a server has done is reported by its next heartbeat.
        until(
            lambda: servers(cluster)["generation-2"]["stats"]["num_requests_total"] > 0,
            "a request on generation-2",
            instead=cluster.logs,
        )
        done(cluster, "scale", "context=2", "generation=2")
        load.until(10)
    assert load.problems == []
    assert states(cluster) == FOUR


def test_drain_stops_and_restart_brings_back(cluster: Cluster) -> None:
    url = servers(cluster)["generation-1"]["url"]
    with Load(cluster.url, 4).running() as load:
        load.until(5)
        done(cluster, "drain", "generation-1")
        assert states(cluster)["generation-1"] == "generation stopped"
        assert cluster.status()["state"] == "ready"
        load.until(5)
        done(cluster, "restart", "generation-1")
        load.until(5)
    assert load.problems == []
    assert states(cluster) == FOUR
    assert f"Server {url} is removed" in cluster.run("logs", "agent").stdout


def test_remove_returns_when_agent_and_proxy_have_said_so(cluster: Cluster) -> None:
    url = servers(cluster)["context-1"]["url"]
    done(cluster, "remove", "context-1")
    assert "context-1" not in servers(cluster)
    agent = psutil.Process(cluster.status()["agent_pid"])
    until(lambda: "context-1.log" not in {Path(file.path).name for file in agent.open_files()}, "its log is closed", 20)
    assert "context-0.log" in {Path(file.path).name for file in agent.open_files()}
    for name in ("agent", "proxy"):
        assert f"Server {url} is removed\n" in cluster.run("logs", name).stdout
    assert "+ context-1" in done(cluster, "up", "-d", "--wait")
    assert states(cluster) == FOUR


def test_a_server_takes_another_role_without_starting_again(cluster: Cluster) -> None:
    before = servers(cluster)["generation-1"]["pid"]
    with Load(cluster.url, 8).running() as load:
        load.until(10)
        done(cluster, "switch", "generation-1", "--to", "context")
        there = servers(cluster)["generation-1"]
        assert (there["role"], there["state"], there["pid"]) == ("context", "ready", before)
        load.until(20)
        done(cluster, "switch", "generation-1", "--to", "generation")
        load.until(10)
    assert load.problems == []
    assert servers(cluster)["generation-1"]["pid"] == before
    assert states(cluster) == FOUR


def test_what_cannot_be_done_is_said(cluster: Cluster) -> None:
    for args, message in [
        (["drain", "generation-9"], "there is no server 'generation-9'; there are: proxy, context-0"),
        (["drain", "generation-0", "generation-1"], "no server would be left that generates"),
        (["scale", "generation=0"], "no server would be left that generates"),
        (["scale", "decode=3"], "there is no role 'decode' to scale; there are: context, generation, both"),
        (["scale", "context"], "expected ROLE=COUNT"),
        (["drain", "proxy"], "`trtdisagg down` ends it"),
        (["switch", "proxy", "--to", "context"], "the proxy has no other role"),
        (["restart"], "name a server"),
    ]:
        refused = cluster.run(*args)
        assert refused.returncode == 2, args
        assert message in refused.stderr, args
    assert states(cluster) == FOUR


def test_up_again_converges(cluster: Cluster) -> None:
    before = servers(cluster)
    text = cluster.file.read_text()
    assert "nothing to do" in done(cluster, "up", "-d")
    try:
        cluster.file.write_text(
            text.replace("generation_servers: {num_instances: 2", "generation_servers: {num_instances: 3").replace(
                "context_servers: {num_instances: 2", "context_servers: {num_instances: 2, max_batch_size: 7"
            )
        )
        with Load(cluster.url, 8).running() as load:
            load.until(10)
            told = done(cluster, "up", "-d", "--dry-run")
            assert servers(cluster).keys() == before.keys()
            said = done(cluster, "up", "-d", "--wait")
            load.until(10)
        assert load.problems == []
        for line in [
            "context_servers.max_batch_size: 64 -> 7",
            "generation_servers.num_instances: 2 -> 3",
            "+ generation-2",
            "~ context-0: restarts",
        ]:
            assert line in told
            assert line in said
        after = servers(cluster)
        assert after["generation-0"]["pid"] == before["generation-0"]["pid"]
        assert after["context-0"]["pid"] != before["context-0"]["pid"]
        assert after["context-0"]["max_running"] == 7
    finally:
        cluster.file.write_text(text)
        assert "- generation-2" in done(cluster, "up", "-d", "--wait")
    assert states(cluster) == FOUR


def test_a_wrong_file_changes_nothing(cluster: Cluster) -> None:
    before = servers(cluster)
    text = cluster.file.read_text()
    try:
        cluster.file.write_text(text + "generation_severs: {}\n")
        assert cluster.run("up", "-d").returncode == 2
        os.kill(cluster.status()["agent_pid"], signal.SIGHUP)
        cluster.wait_events("the file is not applied")
    finally:
        cluster.file.write_text(text)
    assert {n: s["pid"] for n, s in servers(cluster).items()} == {n: s["pid"] for n, s in before.items()}


def test_a_frozen_server_is_taken_out_and_replaced(cluster: Cluster) -> None:
    pid = servers(cluster)["generation-0"]["pid"]
    with Load(cluster.url, 8).running() as load:
        load.until(10)
        os.kill(pid, signal.SIGSTOP)
        cluster.wait_events(
            "generation-0: no sign of life; not routed to",
            "generation-0: killed: no sign of life for 6 s",
            "generation-0: ready on",
        )
        load.until(10)
    assert all("error event" in problem for problem in load.problems), load.problems
    assert servers(cluster)["generation-0"]["pid"] != pid
    assert json.loads(cluster.run("status", "--json").stdout)["state"] == "ready"


def test_the_proxy_moves_to_another_port(cluster: Cluster) -> None:
    before = cluster.url
    port = free_port()
    assert "~ proxy: restarts" in done(cluster, "up", "-d", "--wait", "--set", f"port={port}")
    assert cluster.url == f"http://127.0.0.1:{port}"
    with Load(cluster.url, 2).running() as load:
        load.until(4)
    assert load.problems == []
    taken = cluster.run("up", "-d", "--set", f"port={servers(cluster)['context-0']['url'].rpartition(':')[2]}")
    assert taken.returncode == 1
    assert "the port is in use by pid" in taken.stderr
    assert cluster.url == f"http://127.0.0.1:{port}"
    done(cluster, "up", "-d", "--wait")
    assert cluster.url == before, "the file's own port"
