"""`trtdisagg bench serve` as a process: on a cluster of fake engines under `up`, and when a signal ends it."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.openai_endpoint import answering, never, streamed
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, environment, running
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms", "10"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    text = f"""\
name: measured
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
"""
    with running(tmp_path_factory.mktemp("measured"), text) as it:
        yield it


def report(cluster: Cluster, *args: str) -> dict[str, Any]:
    file = cluster.directory / "report.json"
    done = cluster.run("bench", "serve", *args, "--json", str(file))
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_cluster_that_runs_here(cluster: Cluster, endpoint: str) -> None:
    found = report(cluster, "--endpoint", endpoint, "--concurrency", "4", "--num-prompts", "12", "--osl", "5")
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (12, 0, 60)
    assert found["url"] == cluster.url
    assert found["num_cores"] == len({core for server in cluster.status()["servers"] for core in server["cores"]})
    assert found["output_throughput_per_core"] == pytest.approx(found["output_throughput"] / found["num_cores"])
    assert found["p50_e2el_ms"] >= 35, "four more tokens, each 10 ms later"
    rounded = functools.partial(pytest.approx, abs=0.1)
    assert found["mean_ttft_ms"] + 4 * found["mean_tpot_ms"] == rounded(found["mean_e2el_ms"])
    assert found["mean_itl_ms"] == rounded(found["mean_tpot_ms"])
    assert not [words for words in found["warnings"] if "ITL" in words or "counts as" in words]


def test_clients_that_leave_are_noticed(cluster: Cluster) -> None:
    found = report(cluster, "--request-rate", "50", "--num-prompts", "30", "--osl", "8", "--cancel-rate", "0.5")
    assert found["cancelled"] + found["completed"] == 30
    assert 5 < found["cancelled"] < 25
    assert report(cluster, "--num-prompts", "4", "--osl", "2")["completed"] == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_there_is(tmp_path: Path, signum: int) -> None:
    fourth = threading.Event()

    async def answer(body: dict[str, Any], connection: Any) -> Any:
        if len(endpoint.asked) < 4:
            return await streamed()(body, connection)
        fourth.set()
        return await never(body, connection)

    file = tmp_path / "report.json"
    with answering(answer) as endpoint:
        command = [*TRTDISAGG, "bench", "serve", "--url", endpoint.url, "--concurrency", "1", "--json", str(file)]
        with subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert fourth.wait(DEADLINE_S)
            process.send_signal(signum)
            out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signum, err
    assert "stopped with 1 requests on their way" in err
    assert "Successful requests" in out
    assert json.loads(file.read_text())["completed"] == 3
