"""A cluster on several nodes: one agent decides, the node agents carry out. Real processes, fake engines."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import time
from pathlib import Path

import anyio
import psutil
import pytest
from helpers.agents import RunningAgent, down
from helpers.cluster import post, post_fake
from helpers.nodes import HEAD, NodeProcess, head
from helpers.traces import is_gone
from msgspec.structs import replace

from trtdisagg.errors import StartupError
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan

pytestmark = pytest.mark.anyio


def servers_of(agent: RunningAgent) -> dict[str, list[str]]:
    return {server.name: server.nodes for server in agent.status.servers if server.role != "proxy"}


def pids(agent: RunningAgent) -> dict[str, int | None]:
    return {server.name: server.pid for server in agent.status.servers if server.role != "proxy"}


def parent(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])


async def ask(agent: RunningAgent) -> int:
    body = {"model": "fake", "prompt": "hello", "max_tokens": 4}
    status, _ = await anyio.to_thread.run_sync(post, f"{agent.status.url}/v1/completions", body)
    return status


async def test_servers_of_other_nodes_live_there_and_end_with_the_cluster(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one, NodeProcess("node02", meet) as two:
        async with head(meet, "node01", "node02") as nodes:
            others = await nodes.links.gather(60)
            assert [(node.name, node.address) for node in others] == [("node01", "127.0.0.3"), ("node02", "127.0.0.4")]
            async with nodes.running(nodes.plan(others, with_proxy=True), place) as agent:
                await agent.until_ready()
                assert servers_of(agent) == {
                    "context-0": ["node01"],
                    "context-1": ["node02"],
                    "generation-0": ["node01"],
                    "generation-1": ["node02"],
                }
                assert str(agent.server("context-1").url).startswith("127.0.0.4:")
                assert {parent(pids(agent)[name]) for name in ("context-0", "generation-0")} == {one.process.pid}
                assert parent(pids(agent)["context-1"]) == two.process.pid
                assert await ask(agent) == 200
                await down(place)
                assert await agent.until_over() == 0
            assert "context-1 serves on port" in place.log_file("context-1").read_text()
            nodes.links.exit_code = 3
        for node in (one, two):
            code, said = await node.ended()
            assert code == 3, said
    assert not meet.exists()


async def test_a_rank_that_is_killed_starts_again_on_its_node(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one, NodeProcess("node02", meet):
        async with head(meet, "node01", "node02") as nodes:
            plan = nodes.plan(await nodes.links.gather(60))
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                before = pids(agent)
                os.kill(before["context-0"] or 0, signal.SIGKILL)
                await agent.until(lambda: agent.server("context-0").restarts == 1 and agent.status.state == "ready")
                assert parent(pids(agent)["context-0"]) == one.process.pid
                assert pids(agent)["context-1"] == before["context-1"]
                assert "context-0: ended: killed by SIGKILL" in agent.events
                await down(place, force=True)
                assert await agent.until_over() == 0


async def test_nothing_outlives_a_node_agent_and_the_cluster_serves_on(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with contextlib.ExitStack() as stack:
        one, _ = [stack.enter_context(NodeProcess(name, meet)) for name in ("node01", "node02")]
        async with head(meet, "node01", "node02", timeout_s=5.0) as nodes:
            plan = nodes.plan(await nodes.links.gather(60), with_proxy=True, max_crashes=1)
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                gone = [pid for name, pid in pids(agent).items() if name.endswith("0")]
                one.signal(signal.SIGKILL)
                await agent.until(
                    lambda: agent.server("context-0").state == agent.server("generation-0").state == "failed"
                )
                assert "node01 is lost: no word from it for 5 s" in agent.events
                assert any(event.startswith("context-0: ended: node01 is lost") for event in agent.events)
                assert all(pid is not None and is_gone(pid) for pid in gone)
                assert agent.status.state == "degraded"
                assert await ask(agent) == 200
                again = stack.enter_context(NodeProcess("node01", meet))
                await agent.until_ready()
                assert parent(pids(agent)["generation-0"]) == again.process.pid
                await down(place, force=True)
                assert await agent.until_over() == 0


async def test_a_connection_that_is_cut_for_a_while_costs_nothing(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet):
        async with head(meet, "node01") as nodes:
            plan = nodes.plan(await nodes.links.gather(60))
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                before = pids(agent)
                address = agent.server("context-0").url
                for _ in range(2):
                    nodes.relay.cut()
                    await agent.until(lambda: agent.server("context-0").state == "stalled")
                    await anyio.to_thread.run_sync(functools.partial(post_fake, address, "print", num_bytes=300_000))
                    nodes.relay.mend()
                    await agent.until_ready()
                assert [event for event in agent.events if "node01 is" in event][-1] == "node01 is back"
                assert pids(agent) == before
                printed = b"x" * 1023 + b"\n"
                await agent.until(
                    lambda: place.log_file("context-0").read_bytes().count(printed) == 2 * (300_000 // 1024)
                )
                assert b"left out" not in place.log_file("context-0").read_bytes()
                await down(place, force=True)
                assert await agent.until_over() == 0


async def test_a_node_that_is_asked_to_go_is_drained_and_killed_when_asked_again(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one, NodeProcess("node02", meet) as two:
        async with head(meet, "node01", "node02") as nodes:
            plan = nodes.plan(await nodes.links.gather(60), drain_timeout_s=60)
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                two.signal(signal.SIGTERM)
                code, said = await two.ended()
                assert code == 128 + signal.SIGTERM, said
                await agent.until(lambda: agent.server("context-1").state == "stopped")
                assert "context-1: node02 is about to go (SIGTERM), within 60 s" in agent.events
                await agent.until(lambda: "node02 has left: it was told to" in agent.events)
                assert agent.server("context-0").state == "ready"

                await anyio.to_thread.run_sync(post_fake, agent.server("context-0").url, "deafen")
                one.signal(signal.SIGTERM)
                await agent.until(lambda: agent.server("context-0").state == "draining")
                one.signal(signal.SIGINT)
                code, said = await one.ended()
                assert code == 128 + signal.SIGINT, said
                await agent.until(lambda: agent.server("context-0").state == "stopped")
                await agent.until(lambda: "node01 has left: killed by SIGINT" in agent.events)
                await down(place, force=True)
                assert await agent.until_over() == 0


async def test_a_node_agent_does_not_outlive_its_head(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one:
        async with head(meet, "node01", timeout_s=5.0) as nodes:
            plan = nodes.plan(await nodes.links.gather(60), backoff_s=60)
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                there = pids(agent)
                nodes.relay.freeze()
                code, said = await one.ended()
                assert code == 1
                assert "no word from the head for 5 s" in said
                assert all(pid is not None and is_gone(pid) for pid in there.values())
                await down(place, force=True)
                await agent.until_over()


async def test_a_job_that_was_suspended_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one:
        async with head(meet, "node01", timeout_s=5.0) as nodes:
            plan = nodes.plan(await nodes.links.gather(60))
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                before = pids(agent)
                one.signal(signal.SIGSTOP)
                time.sleep(5.5)  # noqa: ASYNC251 (the head is stopped, too)
                one.signal(signal.SIGCONT)
                await agent.until(lambda: "node01 is back" in agent.events)
                await agent.until_ready()
                assert pids(agent) == before
                await down(place, force=True)
                assert await agent.until_over() == 0


async def test_a_node_agent_that_was_stopped_for_too_long_ends_what_it_had(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one:
        async with head(meet, "node01", timeout_s=5.0) as nodes:
            plan = nodes.plan(await nodes.links.gather(60), backoff_s=60)
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                there = pids(agent)
                one.signal(signal.SIGSTOP)
                await agent.until(lambda: "node01 is lost: no word from it for 5 s" in agent.events)
                one.signal(signal.SIGCONT)
                code, said = await one.ended()
                assert (code, "was away for too long: what ran there counts as ended" in said) == (1, True), said
                assert all(pid is not None and is_gone(pid) for pid in there.values())
                await down(place, force=True)
                await agent.until_over()


def spanning(plan: Plan, *nodes: list[str]) -> Plan:
    """Servers of two ranks, on these nodes."""
    return replace(
        plan,
        servers=[
            replace(
                server,
                nodes=mine,
                rank_cores=server.rank_cores * 2,
                spec=replace(server.spec, parallel=Parallel(tp_size=2)),  # type: ignore[type-var]
            )
            for server, mine in zip(plan.servers, nodes, strict=True)
        ],
    )


async def test_servers_of_several_nodes_meet_at_rank_0_and_live_and_die_as_one(place: Place, tmp_path: Path) -> None:
    """Rank 0 of one is on the head's node, of the other on another node."""
    meet = tmp_path / "meet"
    with NodeProcess("node01", meet) as one:
        async with head(meet, "node01") as nodes:
            there = await nodes.links.gather(60)
            plan = spanning(nodes.plan([*there, *there]), [HEAD, "node01"], ["node01", HEAD])
            async with nodes.running(plan, place) as agent:
                await agent.until_ready()
                assert str(agent.server("context-0").url).startswith("127.0.0.1:")
                assert str(agent.server("context-1").url).startswith("127.0.0.3:")
                first = [agent.server(name).pids for name in ("context-0", "context-1")]
                mine = [os.getpid(), one.process.pid]
                assert [list(map(parent, pids)) for pids in first] == [mine, mine[::-1]]
                await agent.until(lambda: ("context-0", "[rank 1] fake engine: rank 1 of context-0") in agent.lines)
                sockets = psutil.Process(one.process.pid).net_connections("tcp")
                assert [sock.status for sock in sockets] == [psutil.CONN_ESTABLISHED], "rank 0 has what it listens on"
                for pids in first:
                    os.kill(pids[1], signal.SIGKILL)
                await agent.until(
                    lambda: (
                        all(server.restarts == 1 for server in agent.status.servers) and agent.status.state == "ready"
                    )
                )
                for i, pids in enumerate(first):
                    assert f"context-{i}: ended: rank 1: killed by SIGKILL" in agent.events
                    assert not set(agent.server(f"context-{i}").pids) & set(pids)
                    assert all(map(is_gone, pids))
                await down(place, force=True)
                assert await agent.until_over() == 0


# --- who is let in --------------------------------------------------------------------------------------------------


async def test_who_is_not_wanted_is_refused_and_told_why(place: Place, tmp_path: Path) -> None:
    meet, elsewhere = tmp_path / "meet", tmp_path / "elsewhere"
    elsewhere.symlink_to(meet)
    with NodeProcess("node01", meet), NodeProcess("node02", meet) as missing:
        async with head(meet, "node01", "node02") as nodes:
            await nodes.links.gather(60)
            missing.signal(signal.SIGKILL)
            with NodeProcess("node07", meet) as unknown:
                assert await unknown.ended() == (1, "node07 is none of this run's nodes (node01, node02)\n")
            assert "a node agent was refused: node07 is none of this run's nodes (node01, node02)" in nodes.notices
            with NodeProcess("node01", elsewhere) as second, NodeProcess("node01", meet) as third:
                assert await second.ended() == (1, "a node agent of node01 is here already: there can be one only\n")
                code, said = await third.ended()
                assert (code, "runs already" in said) == (1, True)


async def test_another_digest_is_refused_with_both_files(place: Place, tmp_path: Path) -> None:
    meet = tmp_path / "meet"
    message = "/node01/cluster.yaml (digest other) than the head by /head/cluster.yaml (digest same)"
    with NodeProcess("node01", meet, digest="other") as node:
        async with head(meet, "node01") as nodes:
            with pytest.raises(StartupError, match=re.escape(message)):
                await nodes.links.gather(60)
            code, said = await node.ended()
            assert (code, message in said) == (1, True), said


async def test_nodes_that_do_not_come_are_named(place: Place, tmp_path: Path) -> None:
    async with head(tmp_path / "meet", "node01", "node02") as nodes:
        with pytest.raises(StartupError, match=r"no node agent has come from node01, node02"):
            await nodes.links.gather(0.05)
        with NodeProcess("node01", tmp_path / "meet", secret="guessed") as node:
            assert await node.ended() == (1, "node01 does not know the secret of this run\n")
        with pytest.raises(StartupError, match=r"one was refused: node01 does not know the secret of this run"):
            await nodes.links.gather(0.05)
