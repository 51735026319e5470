"""A cluster brought up by the real program, as a user would, for tests that look at it from outside."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
from helpers.waiting import DEADLINE_S

from trtdisagg.cli.background import wait_for_answer
from trtdisagg.supervisor import rundir

TRTDISAGG = [sys.executable, "-m", "trtdisagg"]
REPOSITORY = Path(__file__).resolve().parents[2]
TEST_MARK = "TRTDISAGG_TEST"
"""Environment variable by which a test finds all that it started, however far down."""


class Cluster:
    """One cluster file and the commands of a user on it.

    :param directory: holds the file and the logs. Clusters of two directories never meet.
    """

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        self.file = directory / "cluster.yaml"
        self.file.write_text(text)
        self.env = environment(directory)

    def run(self, *args: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*TRTDISAGG, *args],
                cwd=self.directory,
                env=self.env,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise AssertionError(f"{e}: {e.stdout!r} {e.stderr!r}\n{self.logs()}") from e

    def up(self) -> None:
        done = self.run("up", str(self.file), "-d", "--wait")
        if done.returncode:
            self.down("--force")
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()

    def down(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.run("down", str(self.file), *args)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints, asked as that asks, without the start of a program each time."""
        place = rundir.find(self.file, self.env)
        assert place is not None, f"{self.file} was never up"
        status: dict[str, Any] = msgspec.to_builtins(wait_for_answer(place))
        return status

    def server(self, name: str) -> dict[str, Any]:
        return next(s for s in self.status()["servers"] if s["name"] == name)

    def wait_events(self, *texts: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until events with these texts have come, in this order, from the start of the cluster on."""
        command = [*TRTDISAGG, "events", "-f", str(self.file)]
        with subprocess.Popen(command, cwd=self.directory, env=self.env, stdout=subprocess.PIPE, text=True) as events:
            timer = threading.Timer(timeout_s, events.kill)
            timer.start()
            assert events.stdout is not None
            missing, seen = list(texts), []
            for line in events.stdout:
                seen.append(line)
                while missing and missing[0] in line:
                    del missing[0]
                    break
                if not missing:
                    break
            timer.cancel()
            events.kill()
        assert not missing, f"{missing} never came: {''.join(seen[-20:])}"

    def logs(self) -> str:
        return "".join(f"--- {p.name}\n{p.read_text()}" for p in sorted(self.directory.rglob("*.log")))

    @property
    def url(self) -> str:
        url: str = self.status()["url"]
        return url

    def left_over(self) -> list[str]:
        """Processes that carry this cluster's environment and still run."""
        return left_over(self.env[TEST_MARK])


def left_over(mark: str) -> list[str]:
    """Command lines of all processes that a test started and that still run."""
    found = [p.info for p in psutil.process_iter(["cmdline", "environ"]) if p.pid != os.getpid()]
    return [" ".join(p["cmdline"] or []) for p in found if (p["environ"] or {}).get(TEST_MARK) == mark]


def environment(directory: Path) -> dict[str, str]:
    """An environment for the program, of this directory alone: a runtime directory, and its state in `directory`."""
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "XDG_RUNTIME_DIR": str(runtime_directory(directory)),
        "XDG_STATE_HOME": str(directory / "state"),
        TEST_MARK: str(runtime_directory(directory)),
        "NO_COLOR": "1",
    }


@functools.cache
def runtime_directory(directory: Path) -> Path:
    """One for whoever has this directory, removed with this process.

    Near the root, as a user's is, wherever the directories of tests are: in one whose sockets' addresses would be too
    long a cluster takes /tmp's, where every command of every test sees it.
    """
    made = tempfile.mkdtemp(prefix="td", dir="/tmp")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@contextlib.contextmanager
def running(directory: Path, text: str) -> Iterator[Cluster]:
    """A cluster that is up on entry; on exit it is down and has left nothing."""
    cluster = Cluster(directory, text)
    cluster.up()
    try:
        yield cluster
    finally:
        down = cluster.down("-t", "20")
    assert down.returncode == 0, down.stderr + cluster.logs()
    assert cluster.left_over() == []


def post(url: str, body: dict[str, Any] | bytes, timeout_s: float = DEADLINE_S) -> tuple[int, Any]:
    """POST JSON; returns status and decoded body, errors too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


def post_fake(address: str | None, what: str, **body: int) -> None:
    """Have a fake engine do something."""
    urllib.request.urlopen(f"http://{address}/fake/{what}", json.dumps(body).encode(), timeout=DEADLINE_S).close()
