"""A cluster as a service: what its service manager hears, and what its processes must not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.agents import fake_plan, nothing_left, running_agent
from tests.helpers.notify import listening
from trtdisagg.supervisor.notify import VARIABLES
from trtdisagg.supervisor.rundir import Place


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    with nothing_left(monkeypatch, tmp_path) as place:
        yield place


@pytest.mark.anyio
async def test_no_process_of_ours_inherits_what_the_agent_is_told(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guardian least of all: it lives on for a moment when the agent is killed."""
    with listening(tmp_path) as ear:
        for variable in VARIABLES:
            monkeypatch.setenv(variable, ear.address)
        async with running_agent(fake_plan(with_proxy=True), place) as agent:
            await agent.until_ready()
            children = psutil.Process().children(recursive=True)
            assert len(children) == 4, "guardian, proxy, two servers"
            for child in children:
                assert not VARIABLES & child.environ().keys(), child.cmdline()
