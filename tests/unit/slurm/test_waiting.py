"""Tasks that wait for the agent of their node, as real processes: whatever becomes of it, they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cluster import REPOSITORY

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.slurm.waiting import agent_of, wait_for_agent

WAITER = (
    "import sys; from trtdisagg.slurm.waiting import wait_for_agent; sys.exit(wait_for_agent(sys.argv[1], 'node01'))"
)
AGENT = "from trtdisagg.slurm.waiting import agent_of\nwith agent_of({run!r}, 'node01', 3):\n input()"


@pytest.fixture
def run() -> str:
    return f"7.{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def waiters(run: str, number: int = 3) -> Iterator[list[subprocess.Popen[bytes]]]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    made = [
        subprocess.Popen([sys.executable, "-c", WAITER, run], env=env, stderr=subprocess.PIPE) for _ in range(number)
    ]
    try:
        yield made
    finally:
        for process in made:
            process.kill()
            process.communicate()


def until_waiting(run: str, made: list[subprocess.Popen[bytes]]) -> None:
    """Until all are connected, which the kernel lists beside the socket itself."""
    while Path("/proc/net/unix").read_text().count(f"-{run}-node01") <= len(made):
        for process in made:
            assert process.poll() is None, process.communicate()


def test_they_end_as_the_agent_does(run: str) -> None:
    with waiters(run) as made:
        with agent_of(run, "node01", 3) as agent:
            until_waiting(run, made)
            agent.exit_code = 143
        assert [process.wait(10) for process in made] == [143] * 3


def test_the_agent_ends_with_an_error(run: str) -> None:
    with waiters(run, 1) as made:
        with contextlib.suppress(ConfigError), agent_of(run, "node01", 1):
            until_waiting(run, made)
            raise ConfigError("wrong")
        assert made[0].wait(10) == ConfigError.exit_code


def test_a_task_that_is_late_finds_the_agent_that_ends_at_once(run: str) -> None:
    with contextlib.ExitStack() as stack:
        made: list[subprocess.Popen[bytes]] = []
        with contextlib.suppress(ConfigError), agent_of(run, "node01", 1):
            made = stack.enter_context(waiters(run, 1))
            raise ConfigError("wrong")
        assert made[0].wait(10) == ConfigError.exit_code


def test_the_agent_is_killed(run: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-c", AGENT.format(run=run)]
    with waiters(run) as made, subprocess.Popen(argv, env=env, stdin=subprocess.PIPE) as agent:
        until_waiting(run, made)
        agent.kill()
        assert [process.wait(10) for process in made] == [1] * 3


def test_signals_are_for_the_agent(run: str) -> None:
    with waiters(run, 1) as made:
        with agent_of(run, "node01", 1) as agent:
            until_waiting(run, made)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                made[0].send_signal(number)
            agent.exit_code = 0
        assert made[0].wait(10) == 0


def test_the_agent_never_comes(run: str) -> None:
    with pytest.raises(StartupError, match="the agent of node01, its first task, was not there within"):
        wait_for_agent(run, "node01", timeout_s=0)


def test_there_is_one_agent(run: str) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(agent_of(run, "node01", 0))
        stack.enter_context(agent_of(run, "node02", 0))
        with pytest.raises(StartupError, match="another task of node01 is its agent already"):
            stack.enter_context(agent_of(run, "node01", 0))
