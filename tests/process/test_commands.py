"""The commands of a user, on a whole cluster of fake engines."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, post, running
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S, until

from trtdisagg.protocol.control import ClusterStatus

FAKE = REPOSITORY / "tests" / "fakes" / "engine.py"


def cluster_text(port: int, *misbehaviour: str, more: str = "") -> str:
    command = [sys.executable, str(FAKE), *misbehaviour]
    return f"""\
name: commands
model: fake-model
port: {port}
command: {command}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
{more}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path, cluster_text(free_port())) as it:
        yield it


def test_a_day_in_the_life(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster for all that only looks at it: coming up takes longest."""
    status = msgspec.json.decode(cluster.run("status", "--json").stdout, type=ClusterStatus)
    assert (status.cluster, status.state, len(status.servers)) == ("commands", "ready", 3)
    body = {"model": "fake-model", "prompt": "hello", "max_tokens": 3}
    assert post(cluster.url + "/v1/completions", body)[0] == 200

    table = cluster.run("ps").stdout
    assert re.search(r"generation-0 +cpu \S+ +\d+ +ready", table)
    assert "\x1b" not in table
    drawn = cluster.run("status", "--svg", "picture.svg")
    assert drawn.returncode == 0, drawn.stderr
    assert "generation-0" in (cluster.directory / "picture.svg").read_text()

    monkeypatch.setitem(cluster.env, "COLUMNS", "120")
    listed = cluster.run("trace").stdout.splitlines()
    assert re.search(r" 200 +both +context-0 > generation-0 ", listed[-1])
    picture = cluster.run("trace", listed[-1].split()[0]).stdout
    assert re.search(r"^queued +[█▏]", picture, re.MULTILINE)
    assert re.search(r"^done +▼ +\d", picture, re.MULTILINE)
    assert "\x1b" not in picture
    unknown = cluster.run("trace", "unknown")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no request 'unknown' among the last ones" in unknown.stderr

    events = cluster.run("events").stdout
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} generation-0: ready on ", events, re.MULTILINE)
    kinds = [
        msgspec.json.decode(line)["event"]["event"] for line in cluster.run("events", "--json").stdout.splitlines()
    ]
    assert {"spawn", "spawned", "reported", "told"} <= set(kinds)
    logs = cluster.run("logs").stdout
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} generation-0 \| fake engine: generation-0 serves", logs, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} agent        \| generation-0: ready on", logs, re.MULTILINE)
    (agent_log,) = cluster.directory.rglob("agent.log")
    assert agent_log.stat().st_mode & 0o777 == 0o600

    again = cluster.run("up", "-d", "--wait")
    assert (again.returncode, again.stdout) == (0, status.url + "\n")
    assert f"runs already: {status.url} (pid {status.agent_pid}, ready)" in again.stderr
    assert cluster.run("up").returncode == 0

    log = cluster.run("logs", "context-0", "agent").stdout
    assert "context-0 | fake engine: context-0 serves on port" in log
    assert "agent     | " in log
    assert f"ready: {status.url}" in log

    cluster.file.write_text(cluster.file.read_text() + "max_retries: 0\n")
    changed = cluster.run("up", "-d")
    assert changed.returncode == 0
    assert "max_retries: 1 -> 0\n~ proxy: restarts\n" in changed.stderr


def test_a_comment_is_no_change(cluster: Cluster) -> None:
    cluster.file.write_text("# a comment\n" + cluster.file.read_text())
    assert cluster.run("up", "-d").returncode == 0


def test_logs_follow_until_the_cluster_is_down(cluster: Cluster) -> None:
    command = [*TRTDISAGG, "logs", str(cluster.file), "-f", "-n", "100", "agent"]  # it may begin after the kill
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as follower:
        os.kill(cluster.server("context-0")["pid"], signal.SIGKILL)
        assert follower.stdout is not None
        assert "killed by SIGKILL" in next(line for line in follower.stdout if "context-0: ended" in line)
        cluster.down()
        assert "generation-0: ended" in follower.stdout.read()
        assert follower.wait(DEADLINE_S) == 0
    cluster.up()  # for the fixture, which takes it down


# --- starts that fail -----------------------------------------------------------------------------------------------


def failing(tmp_path: Path, text: str, *args: str) -> tuple[Cluster, subprocess.CompletedProcess[str]]:
    cluster = Cluster(tmp_path, text)
    done = cluster.run("up", *args)
    assert "Traceback" not in done.stdout + done.stderr
    assert cluster.left_over() == []
    assert cluster.run("status", str(cluster.file)).returncode == 3
    return cluster, done


@pytest.mark.parametrize("how", [["-d", "--wait"], ["--no-tui"]])
def test_a_server_that_cannot_load(tmp_path: Path, how: list[str]) -> None:
    _, done = failing(tmp_path, cluster_text(free_port(), "--fail-for-good"), *how)
    assert done.returncode == 1
    assert "trtdisagg: error: " in done.stderr


def test_a_server_that_keeps_dying(tmp_path: Path) -> None:
    port = free_port()
    more = "supervision: {max_crashes: 1}\nmax_retries: 0"
    cluster = Cluster(tmp_path, cluster_text(port, "--die-at-token", "0", more=more))
    command = [*TRTDISAGG, "up", str(cluster.file)]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        next(line for line in up.stdout if "curl" in line)
        url, body = f"http://127.0.0.1:{port}/v1/completions", {"model": "fake-model", "prompt": "x"}
        assert post(url, body)[0] >= 500
        next(line for line in up.stdout if "context-0: given up" in line)
        until(lambda: cluster.server("generation-0")["state"] == "ready", "one that can do without the other goes on")
        assert post(url, body)[0] >= 500
        stderr = up.communicate(timeout=DEADLINE_S)[1]
    assert up.returncode == 5
    assert "trtdisagg: error: generation-0" in stderr
    assert cluster.left_over() == []


def test_a_server_that_is_not_ready_in_time(tmp_path: Path) -> None:
    text = cluster_text(free_port(), "--ready-after", "60", more="supervision: {start_timeout_s: 1.5}")
    assert failing(tmp_path, text, "-d", "--wait")[1].returncode == 4


def test_waiting_has_an_end_of_its_own(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, cluster_text(free_port(), "--ready-after", "60"))
    done = cluster.run("up", "-d", "--wait-timeout", "1")
    assert done.returncode == 4
    assert "it goes on starting" in done.stderr
    assert cluster.status()["state"] == "starting"
    assert cluster.down("--force").returncode == 0
    assert cluster.left_over() == []


def test_a_port_in_use_names_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, done = failing(tmp_path, cluster_text(port), "-d")
    assert done.returncode == 1
    assert f"pid {os.getpid()}" in done.stderr


# --- in the foreground ----------------------------------------------------------------------------------------------


def read_until(master: int, text: bytes, seen: bytes = b"") -> bytes:
    """Read a terminal until some text comes."""
    deadline = time.monotonic() + DEADLINE_S
    while text not in seen:
        assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(master, 65536)
    return seen


def in_a_terminal(cluster: Cluster, *args: str) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    env = {**cluster.env, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen(
        [*TRTDISAGG, "up", str(cluster.file), *args],
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    return process, master


def test_a_terminal_gets_the_table_and_ctrl_c_takes_the_cluster_down(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, cluster_text(free_port()))
    process, master = in_a_terminal(cluster)
    seen = read_until(master, b"curl http://127.0.0.1")
    assert b"restarts" in seen
    os.killpg(process.pid, signal.SIGINT)
    seen = read_until(master, b"stopping", seen)
    assert process.wait(DEADLINE_S) == 130
    os.close(master)
    assert cluster.left_over() == []


def test_a_terminal_that_is_held_holds_nobody_up(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, cluster_text(free_port()))
    process, master = in_a_terminal(cluster)
    read_until(master, b"curl http://127.0.0.1")
    os.write(master, b"\x13")  # Ctrl-S
    restarted = cluster.run("restart", "context-0")
    assert restarted.returncode == 0, restarted.stderr
    os.write(master, b"\x11")
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(OSError):  # the end: nobody has the terminal any more
        while os.read(master, 65536):
            pass
    assert process.wait(DEADLINE_S) == 130
    os.close(master)
    assert cluster.left_over() == []


@pytest.mark.parametrize("how", [[], ["--no-tui"]])
def test_a_terminal_that_goes_away(tmp_path: Path, how: list[str]) -> None:
    """Drained and down, although nothing can be written any more."""
    cluster = Cluster(tmp_path, cluster_text(free_port()))
    process, master = in_a_terminal(cluster, *how)
    seen = read_until(master, b"curl http://127.0.0.1")
    assert not re.search(rb"\x1b\[[0-9;]*3\dm", seen), "NO_COLOR is set"
    os.close(master)
    os.kill(process.pid, signal.SIGHUP)  # as the kernel sends where the terminal is the controlling one
    assert process.wait(DEADLINE_S) == 128 + signal.SIGHUP
    assert cluster.left_over() == []


def test_lines_into_a_pipe(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, cluster_text(free_port()))
    command = [*TRTDISAGG, "up", str(cluster.file)]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "curl" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} (agent|proxy|context-0|generation-0) +\| ", line) for line in lines)
    assert any("context-0    | fake engine: context-0 serves" in line for line in lines)
    assert cluster.left_over() == []
