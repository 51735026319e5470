"""Faults in an order drawn from a seed, on a running cluster of fake engines under load: each is noticed, costs no more
than it must, and at the end nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.chaos import CUT, TOLD, Cost, Fault, Scene, freeze, kill, may_tell, scene
from helpers.cluster import REPOSITORY, Cluster, post
from helpers.ports import free_port
from helpers.traces import guardian_of, is_gone, leaving_nothing
from helpers.waiting import until

pytestmark = pytest.mark.timeout(1200)

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms", "20"]
SEED = 20261122
STALL_TIMEOUT_S = 4
LOGS_BYTES = 1 << 20
SERVERS = ["context-0", "context-1", "generation-0", "generation-1"]


def cluster_text(port: int, context_ports: list[int]) -> str:
    urls = [f"localhost:{port}" for port in context_ports]
    return f"""\
name: chaos
model: fake-model
port: {port}
command: {FAKE}
context_servers: {{num_instances: 2, urls: {urls}}}
generation_servers: {{num_instances: 2}}
supervision: {{max_crashes: 100, backoff_s: 0.2, max_backoff_s: 0.5, kill_timeout_s: 1,
              stall_timeout_s: {STALL_TIMEOUT_S}, drain_timeout_s: 10}}
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Comes up and goes down, and leaves nothing."""
    ports = [free_port() for _ in range(3)]
    cluster = Cluster(tmp_path_factory.mktemp("chaos"), cluster_text(ports[0], ports[1:]))
    with small_disk(cluster.directory / "state"), leaving_nothing(cluster, set(ports)):
        yield cluster


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A disk of its own for the logs, where this user may mount one; then `full_disk` can be."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={LOGS_BYTES}", "trtdisagg-test", str(path)]
    is_mounted = shutil.which("mount") is not None and _succeeds(command)
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", str(path)], check=True)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# --- faults that take a fake engine ---------------------------------------------------------------------------------


def tell_fake(server: dict[str, Any], what: str, **body: int) -> Any:
    """Use one of its routes for tests, which answer with JSON or not at all."""
    url = server["url"] if "//" in server["url"] else f"http://{server['url']}"
    with contextlib.suppress(ValueError):
        status, answer = post(f"{url}/fake/{what}", body)
        assert status == 200
        return answer
    return None


def kill_guardian(scene: Scene) -> Cost:
    """Nobody but the agent notices."""
    pid, since, at = guardian_of(scene.agent_pid), len(scene.events.told), time.time()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    entry = scene.event(since, "noticed", text="the guardian was killed; another one is started")
    until(lambda: guardian_of(scene.agent_pid) not in (None, pid), "another guardian")
    return Cost(noticed_s=entry["time"] - at)


def kill_supervisor(scene: Scene) -> Cost:
    """All it had started ends with it, and `up` starts anew."""
    scene.check_agent()
    pids = {s["name"]: s["pid"] for s in scene.status["servers"]}
    os.kill(scene.agent_pid, signal.SIGKILL)
    scene.cluster.up()
    assert all(is_gone(pid) for pid in pids.values())
    scene.follow()
    return Cost(replaced=pids, may_tell=(*CUT, *TOLD, "503"))


def ignore_sigterm(name: str) -> Fault:
    """It is asked to end in order and does not: it is killed, with nobody on it any more."""

    def fault(scene: Scene) -> Cost:
        server, since = scene.server(name), len(scene.events.told)
        tell_fake(server, "deafen")
        done = scene.cluster.run("restart", str(scene.cluster.file), name)
        assert done.returncode == 0, done.stderr
        scene.event(since, "kill", name, "still there")
        return Cost(replaced={name: server["pid"]})

    return fault


def kill_with_grandchild(name: str) -> Fault:
    """What it had started in a session of its own is gone before it is started again."""

    def fault(scene: Scene) -> Cost:
        grandchild = tell_fake(scene.server(name), "spawn")["grandchild"]
        assert psutil.pid_exists(grandchild)
        cost = kill(name)(scene)
        assert is_gone(grandchild)
        return cost

    return fault


def steal_port(name: str) -> Fault:
    """Somebody else listens where it did: its end says so, and it is back when the port is free."""

    def fault(scene: Scene) -> Cost:
        server, since, at = scene.server(name), len(scene.events.told), time.time()
        with taken(scene, server):
            killed = scene.event(since, "exited", name, "killed by SIGKILL")
            entry = scene.event(since, "exited", name, "exit status")
            assert "address already in use" in " ".join(entry["event"]["last_lines"])
        return Cost(noticed_s=killed["time"] - at, replaced={name: server["pid"]})

    return fault


@contextlib.contextmanager
def taken(scene: Scene, server: dict[str, Any]) -> Iterator[None]:
    """Kill a server and listen on its port, before the next incarnation can: the agent is held up meanwhile."""
    port = int(server["url"].rpartition(":")[2])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(scene.agent_pid, signal.SIGSTOP)
        try:
            os.kill(server["pid"], signal.SIGKILL)
            until(lambda: _binds(thief, port), f"port {port} is free")
            thief.listen()
        finally:
            os.kill(scene.agent_pid, signal.SIGCONT)
        yield


def _binds(sock: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        sock.bind(("127.0.0.1", port))
        return True
    return False


def full_disk(name: str) -> Fault:
    """A server prints until the disk is full: that is said, it may die and come back meanwhile, and what it prints when
    there is room again is in its log."""

    def fault(scene: Scene) -> Cost:
        since = len(scene.events.told)
        tell_fake(scene.server(name), "print", num_bytes=2 * LOGS_BYTES)
        scene.event(since, "noticed", text="its log cannot be written: [Errno 28]")
        cost = kill(name)(scene)
        scene.event(since, "reported", name, "ready on")
        os.truncate(scene.server(name)["log_file"], 0)
        return cost

    return fault


def get_stuck(name: str) -> Fault:
    """Work to do and no progress: not routed to soon, and replaced when it stays so."""

    def fault(scene: Scene) -> Cost:
        server, since, at = scene.server(name), len(scene.events.told), time.time()
        tell_fake(server, "stick")
        stalled = scene.event(since, "stall", name)
        scene.event(since, "kill", name)
        return Cost(noticed_s=stalled["time"] - at, replaced={name: server["pid"]}, may_tell=may_tell(name))

    return fault


# --- the tests ------------------------------------------------------------------------------------------------------


def draw(rng: random.Random, num_faults: int, cluster: Cluster) -> list[tuple[str, Fault]]:
    """Faults in a random order: each kind once before any comes again."""
    kinds = {
        "kill a context server": lambda: kill(rng.choice(SERVERS[:2])),
        "kill a generation server": lambda: kill(rng.choice(SERVERS[2:])),
        "kill the proxy": lambda: kill("proxy"),
        "kill the guardian": lambda: kill_guardian,
        "kill the supervisor": lambda: kill_supervisor,
        "freeze a server": lambda: freeze(rng.choice(SERVERS)),
        "freeze the proxy": lambda: freeze("proxy"),
        "ignore SIGTERM": lambda: ignore_sigterm(rng.choice(SERVERS)),
        "kill with a grandchild": lambda: kill_with_grandchild(rng.choice(SERVERS)),
        "steal the port": lambda: steal_port(rng.choice(SERVERS[:2])),
        "get stuck": lambda: get_stuck(rng.choice(SERVERS)),
    }
    if os.path.ismount(cluster.directory / "state"):
        kinds["fill the disk of the logs"] = lambda: full_disk(rng.choice(SERVERS))
    drawn: list[str] = []
    while len(drawn) < num_faults:
        drawn += rng.sample(sorted(kinds), len(kinds))
    return [(kind, kinds[kind]()) for kind in drawn[:num_faults]]


def test_random_faults(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    num_faults = 50 if request.config.getoption("--soak") else 8
    rng = random.Random(SEED)
    with scene(cluster, 6) as it:
        for name, fault in draw(rng, num_faults, cluster):
            it.suffer(name, fault)
        it.check_agent()


def test_a_full_disk_of_the_logs(cluster: Cluster) -> None:
    if not os.path.ismount(cluster.directory / "state"):
        pytest.skip("this user may not mount a small disk")
    with scene(cluster, 6) as it:
        it.suffer("full", full_disk("generation-0"))
        log = Path(it.server("generation-0")["log_file"])
        tell_fake(it.server("generation-0"), "print", num_bytes=4096)
        until(lambda: log.stat().st_size >= 4096, "room for what it prints then")
