"""`up --srun` in the tasks of a step, with fake engines: one cluster over its nodes, asked on the first of them."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.cluster import REPOSITORY, Cluster, post, post_fake
from helpers.ports import free_port
from helpers.step import Step
from helpers.waiting import until

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
NETWORK = ("--network", "127.0.0.0/8")


def cluster_text(context: str = "", generation: str = "") -> str:
    return f"""\
name: step
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: 2{context}}}
generation_servers: {{num_instances: 1{generation}}}
supervision: {{backoff_s: 0.2, kill_timeout_s: 5, node_timeout_s: 6}}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, cluster_text())
    yield cluster
    assert cluster.left_over() == []


@contextlib.contextmanager
def serving(cluster: Cluster, *tasks: int) -> Iterator[Step]:
    """A step whose cluster serves."""
    with Step(cluster, tasks) as step:
        step.start("up", "--srun", str(cluster.file), "--run-dir", str(cluster.directory), *NETWORK)
        url = cluster.directory / "url"
        until(lambda: url.exists() or step.has_ended, "it serves", instead=lambda: step.said(0))
        assert url.exists(), step.said(0)
        yield step


def nodes_of(cluster: Cluster) -> dict[str, list[str]]:
    return {server["name"]: server["nodes"] for server in cluster.status()["servers"] if server["role"] != "proxy"}


def server(cluster: Cluster, name: str) -> dict[str, Any]:
    return next(server for server in cluster.status()["servers"] if server["name"] == name)


def test_one_cluster_over_the_nodes_of_a_step(cluster: Cluster) -> None:
    """The first task of a node is the agent, and the other ends with it; a node that is lost takes no other along, and
    servers come there again when its agent is started anew."""
    with serving(cluster, 2, 2) as step:
        url = (cluster.directory / "url").read_text().strip()
        done = cluster.run("scale", "generation=2")
        assert done.returncode == 0, done.stderr
        assert nodes_of(cluster) == {
            "context-0": ["node01"],
            "context-1": ["node02"],
            "generation-0": ["node01"],
            "generation-1": ["node02"],
        }
        assert post(f"{url}/v1/completions", {"model": "fake-model", "prompt": "a"})[0] == 200
        step.tasks[2].kill()
        assert step.tasks[3].wait(60) == 1
        until(lambda: "node02 is lost" in step.said(0), "it is told", instead=lambda: step.said(0))
        assert post(f"{url}/v1/completions", {"model": "fake-model", "prompt": "a"})[0] == 200
        cluster.file.write_text(cluster.file.read_text() + "proxy: {max_queue_size: 9}\n")
        step.start_later(1, "up", "--srun", str(cluster.file), "--rejoin", "0")
        until(lambda: "node02 is there again" in step.said(0), "it is back", 60, lambda: step.said(0) + step.said(4))
        done = cluster.run("scale", "generation=3")
        assert done.returncode == 0, done.stderr
        assert nodes_of(cluster)["generation-2"] == ["node02"]
        post_fake(server(cluster, "generation-2")["url"], "deafen")
        step.tasks[4].send_signal(signal.SIGTERM)
        until(lambda: "generation-2 goes to node01" in step.said(0), "it moves", 60, lambda: step.said(0))
        assert nodes_of(cluster)["generation-2"] == ["node02"], "as long as it drains"
        step.tasks[4].send_signal(signal.SIGTERM)
        assert step.tasks[4].wait(20) == 143, step.said(4)
        until(lambda: nodes_of(cluster)["generation-2"] == ["node01"], "it has moved", 60, lambda: step.said(0))
        step.signal(signal.SIGTERM)
        assert step.exit_codes() == [143, 143, -signal.SIGKILL, 1, 143], step.said(0)
    assert (cluster.directory / "exit-code").read_text() == "143\n"
    assert not list((cluster.directory / "state").rglob("head.json"))


def test_a_step_of_one_node_is_as_without_slurm(tmp_path: Path) -> None:
    text = f"name: one\nmodel: fake-model\nport: {free_port()}\ncommand: {FAKE}\ngeneration_servers: {{}}\n"
    cluster = Cluster(tmp_path, text)
    with serving(cluster, 2) as step:
        assert set(map(len, nodes_of(cluster).values())) == {0}
        step.tasks[0].send_signal(signal.SIGINT)
        assert step.exit_codes() == [130, 130], step.said(0)
    assert cluster.left_over() == []


@pytest.mark.parametrize("gpus_per_node", [None, "h200:4"])
def test_what_does_not_fit_is_an_error_on_all_nodes_before_anything_starts(
    tmp_path: Path, gpus_per_node: str | None
) -> None:
    """Whether every node knows it from Slurm, or the head alone from what the nodes have."""
    text = cluster_text(", tensor_parallel_size: 8" if gpus_per_node else "", ", gpus: [5]")
    cluster = Cluster(tmp_path, text)
    more = {"SLURM_GPUS_PER_NODE": gpus_per_node} if gpus_per_node else {}
    with Step(cluster, [1, 2], more) as step:
        step.start("up", "--srun", str(cluster.file), *NETWORK)
        assert step.exit_codes() == [2] * 3
        words = "context-1 needs 8 GPUs side by side" if gpus_per_node else "generation_servers.gpus: there is no GPU 5"
        assert words in step.said(0)
        assert "context-0 |" not in step.said(0)
    assert cluster.left_over() == []


def test_not_in_a_step(cluster: Cluster) -> None:
    done = cluster.run("up", "--srun", str(cluster.file))
    assert done.returncode == 1
    assert "this is no task of a Slurm step" in done.stderr
    assert cluster.run("up", "--rendezvous", "/tmp").returncode == 2


# --- serve ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cluster]:
    """For commands without a cluster file."""
    (tmp_path / "section.yaml").write_text(f"command: {FAKE}\n")
    cluster = Cluster(tmp_path, "")
    yield cluster
    assert cluster.left_over() == []


def test_each_task_is_a_rank_of_one_server(alone: Cluster) -> None:
    """Two tasks on the first node, one on the second; clients need no secret where only this host can reach it."""
    port = free_port()
    argv = ["serve", "fake-model", "--port", str(port), "--config", str(alone.directory / "section.yaml"), *NETWORK]
    with Step(alone, [2, 1]) as step:
        step.start(*argv, "--tp_size", "3")
        until(lambda: "ready: " in step.said(0) or step.has_ended, "it serves", instead=lambda: step.said(0))
        assert post(f"http://127.0.0.1:{port}/v1/completions", {"model": "fake-model", "prompt": "a"})[0] == 200
        [server] = json.loads(alone.run("status", f"both-{port}", "--json").stdout)["servers"]
        assert server["nodes"] == ["node01:0", "node01:1", "node02:0"]
        assert len({psutil.Process(pid).ppid() for pid in server["pids"]}) == 3
        step.signal(signal.SIGTERM)
        assert step.exit_codes() == [143] * 3, step.said(0)


def test_there_is_a_task_for_each_rank(alone: Cluster) -> None:
    with Step(alone, [2]) as step:
        step.start("serve", "fake-model", "--tp_size", "3", "--config", str(alone.directory / "section.yaml"))
        assert step.exit_codes() == [2, 2]
        assert "srun runs 2 tasks, and tp_size 3 times pp_size 1 is 3" in step.said(1)
