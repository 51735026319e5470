"""Servers that join a running cluster from another terminal, and leave it in order."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, post, running
from helpers.etcd import Etcd, etcd, with_etcd
from helpers.ports import free_port

pytestmark = pytest.mark.timeout(120)
FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
DEADLINE_S = 30.0
BODY = {"model": "fake-model", "prompt": "hello", "max_tokens": 3}


def cluster_text(port: int, uri: str, *, num_generation: int = 1, more: str = "") -> str:
    return f"""\
name: joined
model: fake-model
port: {port}
command: {FAKE}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: {num_generation}}}
disagg_cluster:
  cluster_uri: {uri}
  heartbeat_interval_sec: 0.5
  inactive_timeout_sec: 2
  minimal_instances: {{context_servers: 1, generation_servers: 1}}
{more}
"""


class Join:
    """One `trtdisagg join`, run as in another terminal."""

    def __init__(self, cluster: Cluster, *args: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*TRTDISAGG, "join", *args],
            cwd=cluster.directory,
            env=cluster.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines += self._process.stdout

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    @property
    def output(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def join(cluster: Cluster, *args: str) -> Iterator[Join]:
    one = Join(cluster, *args)
    try:
        yield one
    finally:
        one.kill()
        one.wait()
        assert one._process.stdout is not None
        one._process.stdout.close()


def workers(url: str, role: str = "generation") -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/cluster_info", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["current_workers"][f"{role}_servers"]
        return found


def until(is_so: Callable[[], bool], why: Callable[[], str] = str) -> None:
    """Poll what other processes find out for themselves."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def test_from_another_terminal(tmp_path: Path) -> None:
    """One leaves in order; one is killed, is missed when its leases end, and leaves nothing behind."""
    port = free_port()
    uri = f"http://localhost:{port}"
    with running(tmp_path, cluster_text(port, uri)) as cluster:
        url = cluster.url
        assert len(workers(url)) == 1
        with join(cluster, "--cluster", uri, "--role", "generation", "--num", "2") as one:
            until(lambda: len(workers(url)) == 3, lambda: one.output)
            names = {worker["worker_id"] for worker in workers(url)}
            assert "generation-0" in names
            assert len([name for name in names if name.startswith("generation-")]) == 3
            assert [post(url + "/v1/completions", BODY)[0] for _ in range(6)] == [200] * 6
            one.interrupt()
            assert one.wait() == 130, one.output
        assert len(workers(url)) == 1, "they left before they ended"
        log = (next(tmp_path.rglob("proxy.log"))).read_text()
        assert log.count(" is removed") == 2
        assert post(url + "/v1/completions", BODY)[0] == 200
        with join(cluster, "--cluster", uri, "--role", "both", "--name", "extra") as one:
            until(lambda: len(workers(url)) == 2, lambda: one.output)
            assert {worker["worker_id"] for worker in workers(url)} == {"generation-0", "extra-0"}
            one.kill()
            until(lambda: len(workers(url)) == 1)
        assert [post(url + "/v1/completions", BODY)[0] for _ in range(4)] == [200] * 4


@pytest.fixture
def one_etcd(tmp_path: Path) -> Iterator[Etcd]:
    with etcd(tmp_path) as it:
        yield it


@with_etcd
def test_over_etcd(tmp_path: Path, one_etcd: Etcd) -> None:
    """The head's own servers stand in etcd as well, and count once."""
    port = free_port()
    with running(tmp_path, cluster_text(port, one_etcd.uri)) as cluster:
        url = cluster.url
        with join(cluster, "--cluster", one_etcd.uri, "--role", "context") as one:
            until(lambda: len(workers(url, "context")) == 2, lambda: one.output)
            assert len(workers(url, "generation")) == 1
            keys = one_etcd.ask("/v3/kv/range", {"key": "Lw==", "range_end": "MA==", "count_only": True})
            assert int(keys["count"]) == 6, "two keys for each of three servers"
            assert [post(url + "/v1/completions", BODY)[0] for _ in range(4)] == [200] * 4
            one.interrupt()
            assert one.wait() == 130, one.output
        assert len(workers(url, "context")) == 1
    assert "count" not in one_etcd.ask("/v3/kv/range", {"key": "Lw==", "range_end": "MA==", "count_only": True})
