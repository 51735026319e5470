"""What an agent streams to those who watch it, over its real socket."""

from __future__ import annotations

import json

import anyio
import anyio.to_thread
import pytest
from helpers.agents import fake_plan, running_agent

from trtdisagg.errors import NotRunningError
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place

pytestmark = pytest.mark.anyio


async def test_statuses_are_streamed_until_the_agent_ends(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        seen: list[str] = []

        def watch() -> None:
            for status in ControlClient(place).watch():
                seen.append(status.state)
                if len(seen) == 2:
                    ControlClient(place).down()

        await anyio.to_thread.run_sync(watch)
        await agent.until_over()
    assert seen[:2] == ["ready", "ready"], "beats alone are a change"
    assert seen[-1] == "stopping"


async def test_the_past_alone_has_an_end(place: Place) -> None:
    async with running_agent(fake_plan(), place) as agent:
        await agent.until_ready()
        lines = await anyio.to_thread.run_sync(lambda: list(ControlClient(place).events(follow=False)))
        await anyio.to_thread.run_sync(ControlClient(place).down)
        await agent.until_over()
    assert [json.loads(line)["event"]["event"] for line in lines][:3] == ["spawn", "spawned", "reported"]


async def test_watching_nobody(place: Place) -> None:
    with pytest.raises(NotRunningError):
        next(ControlClient(place).watch())
