"""The agent with real children: fake engines that do as they are told, and the real proxy where one is needed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest
from helpers.agents import down, fake_plan, left_over, running_agent
from helpers.cluster import REPOSITORY

from trtdisagg.errors import (
    AlreadyRunningError,
    CrashLoopError,
    NotReadyInTimeError,
    NotRunningError,
    StartupError,
)
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.client import ControlClient, wait_until_gone
from trtdisagg.supervisor.place import Place

pytestmark = pytest.mark.anyio


# --- up and down ----------------------------------------------------------------------------------------------------


async def test_a_cluster_comes_up_and_goes_down(place: Place) -> None:
    async with running_agent(fake_plan(with_proxy=True), place) as agent:
        await agent.until_ready()
        status = await anyio.to_thread.run_sync(ControlClient(place).status)
        assert {s.name: s.state for s in status.servers} == {
            "proxy": "ready",
            "context-0": "ready",
            "generation-0": "ready",
        }
        assert status.agent_pid == os.getpid()
        assert status.url.startswith("http://127.0.0.1:")
        pids = [s.pid for s in status.servers if s.pid]
        assert len({os.getsid(pid) for pid in pids} - {os.getsid(0)}) == 3, "each in a session of its own"
        await down(place)
        assert await agent.until_over() == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    with pytest.raises(NotRunningError):
        ControlClient(place).status()


async def test_lines_are_in_the_log_and_told(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        await agent.until(lambda: bool(agent.lines))
        (name, line), *_ = agent.lines
        await down(place)
        await agent.until_over()
    assert (name, line.split(" serves")[0]) == ("context-0", "fake engine: context-0")
    assert place.log_file("context-0").read_text().splitlines()[0] == line


async def test_a_log_that_cannot_be_written_for_a_while_holds_nobody_up(place: Place) -> None:
    """Whoever opens a pipe to write waits for a reader, as one waits for a file server that is away."""
    place.log_dir.mkdir(parents=True)
    os.mkfifo(log := place.log_file("context-0"))
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        with await anyio.to_thread.run_sync(log.open) as reader:
            assert "serves on port" in await anyio.to_thread.run_sync(reader.readline)
            await down(place)
            await agent.until_over()


async def test_events_are_streamed_past_then_future(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        lines: list[str] = []

        def follow() -> None:
            for line in ControlClient(place).events():
                lines.append(line)
                if '"event":"reported"' in line and '"type":"ready"' in line:
                    ControlClient(place).down()

        await anyio.to_thread.run_sync(follow)
        await agent.until_over()
    kinds = [json.loads(line)["event"]["event"] for line in lines]
    assert kinds[:3] == ["spawn", "spawned", "reported"]
    assert kinds[-6:] == ["stop_asked", "leave", "terminate", "exited", "noticed", "finish"]


async def test_children_know_nothing_of_systemd(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        environ = psutil.Process(agent.server("context-0").pid).environ()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await agent.until_over() == 0, "a completed drain is no failure to systemd"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & environ.keys()
    assert environ["TRTDISAGG_RUN"].endswith(".context-0.1")
    assert "TRTDISAGG_RUN" not in os.environ


# --- deaths ---------------------------------------------------------------------------------------------------------


async def test_a_killed_server_comes_back(place: Place) -> None:
    async with running_agent(fake_plan(with_proxy=True), place) as agent:
        await agent.until_ready()
        for name in ("context-0", "generation-0"):
            pid = agent.server(name).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await agent.until(lambda name=name: agent.server(name).restarts == 1)  # type: ignore[misc]
            await agent.until_ready()
            assert agent.server(name).pid not in (None, pid)
        assert f"{name}: ended: killed by SIGKILL" in agent.events
        await down(place)
        assert await agent.until_over() == 0


async def test_a_killed_proxy_comes_back_and_knows_the_servers(place: Place) -> None:
    async with running_agent(fake_plan(with_proxy=True), place) as agent:
        await agent.until_ready()
        proxy = agent.server("proxy")
        assert proxy.pid is not None
        os.kill(proxy.pid, signal.SIGKILL)
        await agent.until(lambda: agent.server("proxy").restarts == 1)
        await agent.until_ready()
        await down(place)
        assert await agent.until_over() == 0


async def test_a_server_that_keeps_dying_takes_the_cluster_down(place: Place) -> None:
    async with running_agent(fake_plan("--die-after", "0.2", max_crashes=3), place) as agent:
        outcome = await agent.until_over()
    assert isinstance(outcome, CrashLoopError)
    assert outcome.exit_code == 5
    first, *lines = outcome.message.splitlines()
    assert first == "context-0 died 3 times within 600 s, the last time: exit status 1"
    assert lines[-1].strip() == "fake engine: dying after the time asked for"


async def test_a_server_that_dies_while_loading_is_an_error_with_its_last_lines(place: Place) -> None:
    async with running_agent(fake_plan("--fail-loading", with_proxy=True), place) as agent:
        outcome = await agent.until_over()
    assert isinstance(outcome, StartupError)
    assert "did not start: cannot load the weights\n    fake engine: cannot load the weights" in outcome.message


async def test_a_server_that_is_not_ready_in_time(place: Place) -> None:
    async with running_agent(fake_plan("--ready-after", "60", start_timeout_s=0.5), place) as agent:
        outcome = await agent.until_over()
    assert isinstance(outcome, NotReadyInTimeError)
    assert outcome.message.startswith("context-0 was not ready within 0.5 s (still ")


async def test_a_program_that_is_not_there(place: Place) -> None:
    plan = fake_plan()
    server = msgspec.structs.replace(plan.servers[0], argv=["/no/such/program"])
    async with running_agent(msgspec.structs.replace(plan, servers=[server]), place) as agent:
        outcome = await agent.until_over()
    assert isinstance(outcome, StartupError)
    assert "cannot be started: [Errno 2] No such file or directory: '/no/such/program'" in outcome.message


async def test_a_silent_server_is_not_routed_to_and_at_last_replaced(place: Place) -> None:
    async with running_agent(fake_plan(stall_timeout_s=4), place) as agent:
        await agent.until_ready()
        pid = agent.server("context-0").pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await agent.until(lambda: agent.server("context-0").state == "stalled")
        assert agent.status.state == "degraded"
        os.kill(pid, signal.SIGCONT)
        await agent.until_ready()
        assert agent.server("context-0").pid == pid
        os.kill(pid, signal.SIGSTOP)
        await agent.until(lambda: agent.server("context-0").restarts == 1)
        await agent.until_ready()
        await down(place)
        assert await agent.until_over() == 0


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_one_that_ignores_sigterm_is_killed_at_the_deadline(place: Place) -> None:
    plan = fake_plan("--ignore-sigterm", "--spawn-grandchild", kill_timeout_s=0.3)
    async with running_agent(plan, place) as agent:
        await agent.until_ready()
        await down(place, timeout_s=0.2)
        assert await agent.until_over() == 0
    assert "context-0: killed: still there 0.3 s after it was cut short" in agent.events


async def test_the_first_signal_drains_and_the_second_kills(place: Place) -> None:
    plan = fake_plan("--ignore-sigterm", drain_timeout_s=60, kill_timeout_s=60)
    async with running_agent(plan, place) as agent:
        await agent.until_ready()
        os.kill(os.getpid(), signal.SIGINT)
        await agent.until(lambda: agent.server("context-0").state == "draining")
        os.kill(os.getpid(), signal.SIGINT)
        assert await agent.until_over() == 130


async def test_down_by_force_kills(place: Place) -> None:
    plan = fake_plan("--ignore-sigterm", drain_timeout_s=60, kill_timeout_s=60)
    async with running_agent(plan, place) as agent:
        await agent.until_ready()
        await down(place, force=True)
        assert await agent.until_over() == 0


async def test_a_stop_while_servers_load(place: Place) -> None:
    async with running_agent(fake_plan("--ready-after", "60"), place) as agent:
        await agent.until(lambda: agent.server("context-0").state == "loading")
        os.kill(os.getpid(), signal.SIGTERM)
        assert await agent.until_over() == 143


async def test_sigusr1_writes_the_status_into_the_log(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        os.kill(os.getpid(), signal.SIGUSR1)
        await agent.until(lambda: any(text.startswith("{") for text in agent.events))
        (line,) = (text for text in agent.events if text.startswith("{"))
        told = msgspec.json.decode(line, type=ClusterStatus)
        assert {s.name: s.state for s in told.servers} == {"context-0": "ready"}
        await down(place)
        assert await agent.until_over() == 0


async def test_a_cancelled_agent_leaves_nothing(place: Place) -> None:
    async with running_agent(fake_plan("--spawn-grandchild"), place) as agent:
        await agent.until_ready()


# --- what is in the way ---------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_found_before_anything_starts(place: Place) -> None:
    plan = fake_plan()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spec = msgspec.structs.replace(plan.servers[0].spec, port=listener.getsockname()[1])
        server = msgspec.structs.replace(plan.servers[0], spec=spec)
        async with running_agent(msgspec.structs.replace(plan, servers=[server]), place) as agent:
            outcome = await agent.until_over()
    assert isinstance(outcome, StartupError)
    assert f"the port is in use by pid {os.getpid()}" in outcome.message
    assert agent.events == []


async def test_a_second_agent_is_turned_away(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        async with running_agent(fake_plan(), place) as second:
            outcome = await second.until_over()
        assert isinstance(outcome, AlreadyRunningError)
        assert outcome.pid == os.getpid()
        assert (await anyio.to_thread.run_sync(ControlClient(place).status)).state == "ready"
        await down(place)
        assert await agent.until_over() == 0


# --- the agent itself is killed -------------------------------------------------------------------------------------

AGENT = """
import os, sys, anyio
from pathlib import Path
from helpers.agents import fake_plan
from trtdisagg.supervisor.run import run_agent
from trtdisagg.supervisor.place import Place

def tell(status):
    if status.state == "ready":
        print("ready", flush=True)

run_dir, log_dir, *flags = sys.argv[1:]
anyio.run(lambda: run_agent(fake_plan(*flags), Place(Path(run_dir), Path(log_dir)), on_status=tell))
"""


@contextlib.contextmanager
def agent_process(place: Place, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """An agent in a process of its own, ready."""
    argv = [sys.executable, "-c", AGENT, str(place.run_dir), str(place.log_dir), *flags]
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def guardian_of(pid: int, place: Place) -> psutil.Process:
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(place.run_dir) in child.cmdline():
                found.append(child)
    (guardian,) = found
    return guardian


async def test_nothing_outlives_a_killed_agent(place: Place, tmp_path: Path) -> None:
    """Not a child, not what a child started in a session of its own; and the next agent starts at once."""
    with agent_process(place, "--ignore-sigterm", "--spawn-grandchild") as process:
        assert len(left_over(str(tmp_path))) == 4, "agent, guardian, server, grandchild"
        process.kill()
        process.wait()
        async with running_agent(fake_plan(), place) as agent:
            await agent.until_ready()
            assert len(left_over(str(tmp_path))) == 2, "the new guardian and server"
            await down(place)
            assert await agent.until_over() == 0


async def test_the_guardian_clears_up_by_itself(place: Place, tmp_path: Path) -> None:
    with agent_process(place, "--spawn-grandchild") as process:
        guardian = guardian_of(process.pid, place)
        process.kill()
        process.wait()
    assert wait_until_gone(guardian.pid, timeout_s=60)
    assert left_over(str(tmp_path)) == []


async def test_a_killed_guardian_is_replaced(place: Place, tmp_path: Path) -> None:
    async with running_agent(fake_plan("--spawn-grandchild"), place) as agent:
        await agent.until_ready()
        guardian_of(os.getpid(), place).kill()
        await agent.until(lambda: "the guardian was killed; another one is started" in agent.events)
        await down(place)
        assert await agent.until_over() == 0


async def test_agent_and_guardian_killed_together(place: Place, tmp_path: Path) -> None:
    """The kernel ends the server, and the next agent finds the rest by the mark."""
    with agent_process(place, "--spawn-grandchild") as process:
        guardian = guardian_of(process.pid, place)
        process.send_signal(signal.SIGSTOP)
        guardian.kill()
        process.kill()
        process.wait()
        assert left_over(str(tmp_path)) != []
        async with running_agent(fake_plan(), place) as agent:
            await agent.until_ready()
            await down(place)
            await agent.until_over()
