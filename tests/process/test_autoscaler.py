"""The autoscaler on a running cluster of fake engines: a queue grows, a server comes; the queue is gone, it goes."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

from helpers.cluster import REPOSITORY, Cluster, running
from helpers.load import Load
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--hold-generation"]
NUM_CLIENTS = 12


def text(autoscale: str) -> str:
    """A generation server that runs one request at once, so that most of those of many clients wait."""
    return f"""\
name: scaled
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: 1}}
generation_servers: {{max_batch_size: 1}}
autoscale:
  {{interval_s: 0.2, cooldown_s: 1, context: {{max: 1}}, generation: {{max: 2}}, {autoscale}}}
"""


def go(cluster: Cluster) -> None:
    """Let the generation servers generate."""
    for server in cluster.status()["servers"]:
        if server["role"] == "generation":
            request = urllib.request.Request(f"http://{server['url']}/fake/go", b"", method="POST")
            urllib.request.urlopen(request, timeout=DEADLINE_S).close()


def names(cluster: Cluster) -> list[str]:
    return [s["name"] for s in cluster.status()["servers"]]


def explained(cluster: Cluster, *options: str) -> str:
    done = cluster.run("autoscale", str(cluster.file), "--dry-run", "--once", *options)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line.partition(" ")[2]


def test_a_dry_run_is_only_told_and_then_a_server_comes_and_goes(tmp_path: Path) -> None:
    with running(tmp_path, text("enabled: true, dry_run: true")) as cluster:
        alone = names(cluster)
        assert explained(cluster).startswith("no change: 1 context 0% busy, 0.0 waiting; 1 generation 0% busy")
        with Load(cluster.url, NUM_CLIENTS).running() as load:
            cluster.wait_events("autoscale: dry run: generation=2: ")
            assert cluster.status()["autoscale"].startswith("dry run: ")
            assert explained(cluster).startswith("generation=2: ")
            assert "but 1 is the maximum" in explained(cluster, "--set", "autoscale.generation.max=1")
            assert names(cluster) == alone

            cluster.file.write_text(cluster.file.read_text().replace("dry_run: true", "dry_run: false"))
            applied = cluster.run("up", str(cluster.file), "-d")
            assert "autoscale.dry_run: true -> false" in applied.stdout + applied.stderr
            cluster.wait_events("autoscale: generation=2: ", "generation-1: ready on")
            go(cluster)
            load.until(NUM_CLIENTS)
        assert load.problems == []
        cluster.wait_events("autoscale: generation=1: generation is 0% busy and nothing waited for ", " is removed")
        assert names(cluster) == alone


def test_without_dry_run_it_says_who_scales(tmp_path: Path) -> None:
    refused = Cluster(tmp_path, text("enabled: false")).run("autoscale")
    assert refused.returncode == 2
    assert "servers are scaled by the agent itself" in refused.stderr
