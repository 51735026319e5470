"""Servers that join a running cluster from another terminal, and leave it in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, post, running
from helpers.etcd import Etcd, etcd, with_etcd
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S, until

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
BODY = {"model": "fake-model", "prompt": "hello", "max_tokens": 3}


def cluster_text(port: int, uri: str, *misbehaviour: str, num_generation: int = 1, inactive_s: int = 60) -> str:
    return f"""\
name: joined
model: fake-model
port: {port}
command: {[*FAKE, *misbehaviour]}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: {num_generation}}}
disagg_cluster:
  cluster_uri: {uri}
  heartbeat_interval_sec: 0.5
  inactive_timeout_sec: {inactive_s}
  minimal_instances: {{context_servers: 1, generation_servers: 1}}
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
    with urllib.request.urlopen(f"{url}/cluster_info", timeout=DEADLINE_S) as answer:
        found: list[dict[str, Any]] = json.load(answer)["current_workers"][f"{role}_servers"]
        return found


def test_from_another_terminal(tmp_path: Path) -> None:
    """One leaves in order; one is killed, is missed when its leases end, and leaves nothing behind."""
    port = free_port()
    uri = f"http://localhost:{port}"
    with running(tmp_path, cluster_text(port, uri, inactive_s=8)) as cluster:
        url = cluster.url
        assert len(workers(url)) == 1
        with join(cluster, "--cluster", uri, "--role", "generation", "--num", "2") as one:
            until(lambda: len(workers(url)) == 3, "both have joined", instead=lambda: one.output)
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
            until(lambda: len(workers(url)) == 2, "it has joined", instead=lambda: one.output)
            assert {worker["worker_id"] for worker in workers(url)} == {"generation-0", "extra-0"}
            one.kill()
            until(lambda: len(workers(url)) == 1, "it is missed")
        assert [post(url + "/v1/completions", BODY)[0] for _ in range(4)] == [200] * 4


def in_use(url: str, secret: str) -> dict[str, int]:
    request = urllib.request.Request(f"{url}/in_use", headers={"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        found: dict[str, int] = json.load(answer)
        return found


def stream(url: str, body: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"{url}/v1/completions", json.dumps(body).encode(), timeout=DEADLINE_S) as answer:
        text: str = answer.read().decode()
        return text


def test_who_leaves_finishes_what_runs(tmp_path: Path) -> None:
    """The only generation server is a joined one, and it is told to go in the middle of an answer."""
    port = free_port()
    uri = f"http://localhost:{port}"
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    secret.chmod(0o600)
    text = cluster_text(port, uri, "--hold-generation", num_generation=0) + f"secret_file: {secret}\n"
    with running(tmp_path, text) as cluster:
        url = cluster.url
        with join(cluster, "--cluster", uri, "--role", "generation") as one, ThreadPoolExecutor(1) as asking:
            until(lambda: len(workers(url)) == 1, "it has joined", instead=lambda: one.output)
            (joined,) = workers(url)
            answer = asking.submit(stream, url, {**BODY, "stream": True})
            until(lambda: any(".generation-" in name for name in in_use(url, "sesame")), "it is asked")
            one.interrupt()
            until(lambda: not workers(url), "it has left", instead=lambda: one.output)
            assert not answer.done(), "it left before the answer was whole"
            url_of_joined = f"http://{joined['host']}:{joined['port']}"
            urllib.request.urlopen(f"{url_of_joined}/fake/go", b"", timeout=DEADLINE_S).close()
            assert answer.result(DEADLINE_S).endswith("data: [DONE]\n\n")
            assert one.wait() == 130, one.output
        assert post(url + "/v1/completions", BODY)[0] == 503


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
            until(lambda: len(workers(url, "context")) == 2, "it has joined", instead=lambda: one.output)
            assert len(workers(url, "generation")) == 1
            keys = one_etcd.ask("/v3/kv/range", {"key": "Lw==", "range_end": "MA==", "count_only": True})
            assert int(keys["count"]) == 6, "two keys for each of three servers"
            assert [post(url + "/v1/completions", BODY)[0] for _ in range(4)] == [200] * 4
            one.interrupt()
            assert one.wait() == 130, one.output
        assert len(workers(url, "context")) == 1
    assert "count" not in one_etcd.ask("/v3/kv/range", {"key": "Lw==", "range_end": "MA==", "count_only": True})


def test_a_proxy_of_several_processes(tmp_path: Path) -> None:
    """All know who joined, whichever of them it spoke to; the one with the store is killed, and nobody is forgotten."""
    port = free_port()
    uri = f"http://localhost:{port}"

    def all_know(number: int) -> bool:
        return all(len(workers(uri)) == number for _ in range(12))

    text = cluster_text(port, uri) + "proxy: {num_workers: 2}\nsupervision: {backoff_s: 0.2}\n"
    with running(tmp_path, text) as cluster:
        with join(cluster, "--cluster", uri, "--role", "generation", "-f", str(cluster.file)) as one:
            until(lambda: all_know(2), "it has joined", instead=lambda: one.output)
            store = cluster.server("proxy-0")["pid"]
            os.kill(store, signal.SIGKILL)
            until(lambda: cluster.server("proxy-0")["pid"] not in (None, store), "another proxy")
            until(lambda: cluster.server("proxy-0")["state"] == "ready", "it is ready")
            until(lambda: all_know(2), "nobody is forgotten", instead=lambda: one.output)
            assert [post(f"{uri}/v1/completions", BODY)[0] for _ in range(6)] == [200] * 6
            one.interrupt()
            assert one.wait() == 130, one.output
        until(lambda: all_know(1), "it has left", instead=lambda: one.output)
