"""Servers of several ranks under the agent: several processes that are one child."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest
from helpers.agents import down, fake_plan, running_agent
from helpers.cluster import Cluster
from helpers.plans import FAKE_ENGINE
from helpers.waiting import DEADLINE_S

from trtdisagg.errors import StartupError
from trtdisagg.protocol.control import DownRequest
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place

pytestmark = pytest.mark.anyio


def gang_plan(*misbehaviour: str, **supervision: float):
    return fake_plan(*misbehaviour, section={"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, **supervision)


async def test_a_server_of_four_ranks_comes_up_and_goes_down(place: Place) -> None:
    async with running_agent(gang_plan(), place) as agent:
        await agent.until_ready()
        server = agent.server("context-0")
        assert server.parallel is not None
        assert (server.parallel.num_ranks, len(server.pids), server.pids[0]) == (4, 4, server.pid)
        assert len({os.getsid(pid) for pid in server.pids}) == 4
        marks = [psutil.Process(pid).environ()["TRTDISAGG_RUN"].rpartition("context-0.1")[2] for pid in server.pids]
        assert marks == [".0", ".1", ".2", ".3"]
        await agent.until(lambda: sum(line.startswith("[rank ") for _, line in agent.lines) == 3)
        await down(place)
        assert await agent.until_over() == 0
    assert ("context-0", "[rank 3] fake engine: rank 3 of context-0") in agent.lines
    assert "context-0: ended: exit status 0" in agent.events
    assert not [event for event in agent.events if "killed" in event]


async def test_one_rank_is_killed_and_the_whole_server_starts_again(place: Place) -> None:
    async with running_agent(gang_plan(), place) as agent:
        await agent.until_ready()
        for restarts, rank in enumerate((2, 0), start=1):
            before = agent.server("context-0").pids
            os.kill(before[rank], signal.SIGKILL)
            await agent.until(lambda n=restarts: agent.server("context-0").restarts == n)  # type: ignore[misc]
            await agent.until_ready()
            now = agent.server("context-0").pids
            assert len(now) == 4
            assert not set(before) & set(now)
            assert not any(map(psutil.pid_exists, before))
        await down(place)
        assert await agent.until_over() == 0
    assert "context-0: ended: rank 2: killed by SIGKILL" in agent.events
    assert "context-0: ended: killed by SIGKILL" in agent.events


async def test_a_rank_that_cannot_start_is_named(place: Place) -> None:
    async with running_agent(gang_plan("--fail-loading", "--only-rank", "3"), place) as agent:
        outcome = await agent.until_over()
    assert isinstance(outcome, StartupError)
    assert "context-0 did not start: rank 3: cannot load the shard\n" in outcome.message
    assert outcome.message.splitlines()[-1].strip() == "fake engine: cannot load the shard"


async def test_a_frozen_rank_is_a_silent_server(place: Place) -> None:
    async with running_agent(gang_plan(stall_timeout_s=300), place) as agent:
        await agent.until_ready()
        frozen = agent.server("context-0").pids[1]
        os.kill(frozen, signal.SIGSTOP)
        await agent.until(lambda: agent.server("context-0").state == "stalled")
        os.kill(frozen, signal.SIGCONT)
        await agent.until_ready()
        assert agent.server("context-0").pids[1] == frozen
        await down(place)
        assert await agent.until_over() == 0


async def test_one_that_ignores_sigterm_is_killed_with_all_its_ranks(place: Place) -> None:
    plan = gang_plan("--ignore-sigterm", "--spawn-grandchild", "--only-rank", "0", kill_timeout_s=0.3)
    async with running_agent(plan, place) as agent:
        await agent.until_ready()
        await anyio.to_thread.run_sync(ControlClient(place).down, DownRequest(timeout_s=0.2))
        assert await agent.until_over() == 0
    assert "context-0: killed: still there 0.3 s after it was cut short" in agent.events


# --- as users see it ------------------------------------------------------------------------------------------------


def test_users_see_the_ranks_and_nothing_outlives_a_killed_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = json.dumps([*FAKE_ENGINE, "--spawn-grandchild", "--only-rank", "1"])
    text = f"model: fake\nport: 0\ncommand: {command}\ncontext_servers: {{tensor_parallel_size: 2}}\n"
    cluster = Cluster(tmp_path, f"{text}generation_servers: {{pipeline_parallel_size: 2}}\n")
    check = cluster.run("check", str(cluster.file))
    assert "tp2 = 2 ranks" in check.stdout, check.stderr
    assert "pp2 = 2 ranks" in check.stdout
    cluster.up()
    try:
        status = cluster.status()
        assert [len(server["pids"]) for server in status["servers"]] == [1, 2, 2]
        assert (status["servers"][1]["parallel"]["tp_size"], status["links"][0]["transport"]) == (2, "local")
        shown = cluster.run("status", str(cluster.file)).stdout
        assert "tp2" in shown
        assert "KV local (pull), 10.0 GB/s, 1 link" in shown
        guard = [psutil.Process(pid) for server in status["servers"] for pid in server["pids"]]
        os.kill(status["agent_pid"], signal.SIGKILL)
        _, alive = psutil.wait_procs(guard, timeout=DEADLINE_S)
        assert alive == []
    finally:
        cluster.down("--force")
    wait_until_nobody_holds(cluster)
    assert cluster.left_over() == []


def wait_until_nobody_holds(cluster: Cluster) -> None:
    """The guardian ends when it has cleared up."""
    guardians = [p for p in psutil.process_iter(["environ"]) if is_of(p, cluster)]
    _, alive = psutil.wait_procs(guardians, timeout=DEADLINE_S)
    assert alive == []


def is_of(process: psutil.Process, cluster: Cluster) -> bool:
    return (process.info["environ"] or {}).get("TRTDISAGG_TEST") == cluster.env["TRTDISAGG_TEST"]
