"""Servers that meet before requests come, with fake engines that say how it went."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from typing import Any

import anyio
import anyio.to_thread
import pytest
from helpers.agents import RunningAgent, down, fake_plan, running_agent
from helpers.waiting import DEADLINE_S

from trtdisagg.supervisor import links
from trtdisagg.supervisor.place import Place

pytestmark = pytest.mark.anyio


async def seen_by(agent: RunningAgent, name: str) -> dict[str, Any]:
    def ask() -> Any:
        with urllib.request.urlopen(f"http://{agent.server(name).url}/fake/state", timeout=DEADLINE_S) as answer:
            return json.load(answer)

    found: dict[str, Any] = await anyio.to_thread.run_sync(ask)
    return found


async def test_servers_have_met_when_the_cluster_is_ready(place: Place) -> None:
    async with running_agent(fake_plan(with_proxy=True), place) as agent:
        await agent.until_ready()
        (link,) = agent.status.links
        assert (link.context, link.generation, link.transport, link.direction) == (
            "context-0",
            "generation-0",
            "local",
            "pull",
        )
        assert (link.is_open, link.error) == (True, None)
        (before,) = (await seen_by(agent, "generation-0"))["met"]
        pid = agent.server("context-0").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await agent.until(lambda: agent.server("context-0").restarts == 1)
        await agent.until_ready()
        found = await seen_by(agent, "generation-0")
        assert (found["gone"], found["met"][0], len(found["met"])) == ([before], before, 2)
        await down(place)
        assert await agent.until_over() == 0
    assert "generation-0: KV of context-0 comes by local (pull, 10.0 GB/s)" in agent.events


async def test_servers_that_cannot_meet_serve_all_the_same(place: Place) -> None:
    async with running_agent(fake_plan("--cannot-meet", with_proxy=True), place) as agent:
        await agent.until_ready()
        assert [link.error for link in agent.status.links] == ["no way to get there"]
        await down(place)
        assert await agent.until_over() == 0
    assert "generation-0: no KV from context-0: no way to get there" in agent.events


async def test_a_meeting_that_never_comes_is_waited_for_only_so_long(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MEET_TIMEOUT_S", 1.0)
    async with running_agent(fake_plan("--never-meets", with_proxy=True), place) as agent:
        await agent.until_ready()
        assert [link.error for link in agent.status.links] == ["they have not met within 1 s"]
        await down(place)
        assert await agent.until_over() == 0
    assert any("has not met context-0 in time" in event for event in agent.events)
