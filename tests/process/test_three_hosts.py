"""Three agents on three hosts: a head with proxy and etcd, and two that join it over the network."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.cluster import REPOSITORY, TRTDISAGG, environment
from helpers.etcd import Etcd, needs_etcd
from helpers.netns import Host, hosts, needs_netns

pytestmark = [*needs_netns, *needs_etcd]
FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
PORT = 8000
DEADLINE_S = 90.0
BODY = {"model": "fake-model", "prompt": "hello", "max_tokens": 3}


class Program:
    """trtdisagg on one of the hosts, with run and state directories of that host."""

    def __init__(self, host: Host, directory: Path, *args: str) -> None:
        self.log = directory / "log"
        with self.log.open("wb") as log:
            argv = [*host.prefix, *TRTDISAGG, *args]
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=environment(directory), cwd=directory, stdin=subprocess.DEVNULL
            )

    def end(self) -> int:
        """Ctrl-C, and wait."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Cluster:
    def __init__(self, head: Host) -> None:
        self._head = head
        self.url = f"http://{head.address}:{PORT}"

    def generation(self) -> set[str]:
        """Addresses of the generation servers that the proxy knows."""
        status, info = self._head.fetch(f"{self.url}/cluster_info")
        return {w["host"] for w in info["current_workers"]["generation_servers"]} if status == 200 else set()

    def complete(self) -> int:
        return self._head.fetch(f"{self.url}/v1/completions", BODY)[0]

    def until(self, is_so: Callable[[], bool], logs: list[Path]) -> float:
        """
        :returns: how long it took.
        """
        started = time.monotonic()
        while not is_so():
            assert time.monotonic() < started + DEADLINE_S, "\n".join(f"--- {log}\n{log.read_text()}" for log in logs)
            time.sleep(0.1)
        return time.monotonic() - started


@contextlib.contextmanager
def three_hosts(directory: Path) -> Iterator[tuple[list[Host], Etcd, list[Path]]]:
    with hosts(3) as made, contextlib.ExitStack() as stack:
        directories = [directory / str(i) for i in range(3)]
        for each in directories:
            each.mkdir()
        etcd = Etcd(directory, host=made[0].address, inside=made[0].prefix)
        etcd.start()
        stack.callback(etcd.kill)
        yield made, etcd, directories


def test_one_host_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    secret.chmod(0o600)
    with three_hosts(tmp_path) as (made, etcd, directories), contextlib.ExitStack() as stack:
        head, *others = made
        file = tmp_path / "cluster.yaml"
        file.write_text(f"""\
name: three
model: fake-model
hostname: {head.address}
port: {PORT}
command: {FAKE}
secret_file: {secret}
context_servers: {{urls: ["{head.address}:9101"]}}
generation_servers: {{num_instances: 0}}
disagg_cluster:
  cluster_uri: {etcd.uri}
  cluster_name: three
  heartbeat_interval_sec: 0.5
  inactive_timeout_sec: 5
""")
        programs = [Program(head, directories[0], "up", str(file), "--no-tui")]
        for i, host in enumerate(others, start=1):
            join = ["join", "--cluster", etcd.uri, "--role", "generation", "--host", host.address, "--file", str(file)]
            programs.append(Program(host, directories[i], *join, "--secret-file", str(secret), "--name", f"g{i}"))
        for program in programs:
            stack.callback(program.close)
        logs = [program.log for program in programs]
        cluster = Cluster(head)
        both = {host.address for host in others}
        cluster.until(lambda: cluster.generation() == both, logs)
        assert [cluster.complete() for _ in range(4)] == [200] * 4

        others[0].cut()
        cluster.until(lambda: cluster.generation() == {others[1].address}, logs)
        assert [cluster.complete() for _ in range(3)] == [200] * 3
        others[0].mend()
        cluster.until(lambda: cluster.generation() == both, logs)
        assert [cluster.complete() for _ in range(4)] == [200] * 4

        assert programs[2].end() == 130, logs[2].read_text()
        assert cluster.generation() == {others[0].address}, "it left before it ended"
        assert programs[1].end() == 130, logs[1].read_text()
        assert programs[0].end() == 130, logs[0].read_text()
