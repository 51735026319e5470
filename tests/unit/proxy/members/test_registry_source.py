"""What a store lists, and when it is routed to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import anyio
import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import UpstreamServer
from trtdisagg.proxy.members import registry_source
from trtdisagg.proxy.members.probe import Outcome
from trtdisagg.proxy.members.registry_source import Pace, RegistrySource
from trtdisagg.registry.members import Roster
from trtdisagg.registry.records import Listed

pytestmark = pytest.mark.anyio


class FakeProber:
    """Answers as the test says, and notes who was asked."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.asked: list[str] = []

    async def look(self, url: str, timeout_s: float) -> Outcome:
        await anyio.lowlevel.checkpoint()
        self.asked.append(url)
        return self.outcomes.get(url, "well")

    async def describe(self, server: UpstreamServer) -> list[Member]:
        return [Member(name=server.name, role=server.role, model="asked", url=server.url)]


def ours(name: str, port: int, run: str = "run") -> Member:
    return Member(
        name=name, role="generation", model="m", url=f"h:{port}", incarnation=f"{run}.{name}.1", wire_version=1
    )


def listed_in(entries: Mapping[str, str]) -> tuple[dict[str, Listed], list[str]]:
    """`ours PORT`, `foreign PORT`, or a problem."""
    listed, problems = {}, []
    for key, value in entries.items():
        kind, _, port = value.partition(" ")
        server = UpstreamServer(name=f"context-h:{port}", role="context", model=None, url=f"h:{port}")
        if kind == "problem":
            problems.append(key)
        else:
            listed[key] = Listed(server, ours(key, int(port)) if kind == "ours" else None)
    return listed, problems


class Running:
    def __init__(self) -> None:
        self.roster = Roster()
        self.prober = FakeProber()
        self.changed = anyio.Event()
        self.roster.watch(self._note)
        self.source = RegistrySource(self.roster, self.prober, listed_in, pace=Pace(interval_s=0.01))  # type: ignore[arg-type]

    def _note(self) -> None:
        self.changed.set()

    @property
    def names(self) -> list[str]:
        return sorted(m.name for m in self.roster.apart_from("agent"))

    async def until(self, *names: str) -> None:
        with anyio.fail_after(60):
            while self.names != sorted(names):
                self.changed = anyio.Event()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(registry_source, "LOOK_AGAIN_S", 0.01)
    it = Running()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.source.run)
        yield it
        tasks.cancel_scope.cancel()


@pytest.fixture
async def it(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with running(monkeypatch) as one:
        yield one


async def test_those_of_ours_are_there_at_once_and_not_asked(it: Running) -> None:
    it.source.take({"generation-0": "ours 1", "generation-1": "ours 2"})
    assert it.names == [] or it.names == ["generation-0", "generation-1"]
    await it.until("generation-0", "generation-1")
    it.source.take({"generation-1": "ours 2"})
    await it.until("generation-1")
    assert it.prober.asked == []


async def test_a_foreign_one_is_asked_first_and_always(it: Running) -> None:
    it.prober.outcomes["h:1"] = "refused"
    it.source.take({"w": "foreign 1"})
    with anyio.fail_after(60):
        while len(it.prober.asked) < 3:
            await anyio.sleep(0.01)
    assert it.names == []
    it.prober.outcomes["h:1"] = "well"
    await it.until("context-h:1")
    assert it.roster.apart_from("agent")[0].model == "asked"
    it.prober.outcomes["h:1"] = "refused"
    await it.until()


async def test_while_the_store_is_away_health_decides(it: Running) -> None:
    it.source.take({"a": "ours 1", "b": "ours 2"})
    await it.until("a", "b")
    it.prober.outcomes["h:2"] = "silent"
    assert not it.roster.is_stale(0.0)
    it.source.store_away("gone")
    assert it.roster.is_stale(0.0)
    await it.until("a")
    it.source.take({"a": "ours 1", "b": "ours 2"})
    it.prober.outcomes["h:2"] = "well"
    await it.until("a", "b")
    assert not it.roster.is_stale(0.0)


async def test_what_the_agent_tells_counts_once(it: Running) -> None:
    mine = ours("generation-0", 1)
    it.source.take({"generation-0": "ours 1", "generation-1": "ours 2"})
    await it.until("generation-0", "generation-1")
    it.roster.replace("agent", [mine])
    await it.until("generation-1")
    it.roster.replace("agent", [])
    await anyio.sleep(0.05)
    assert it.names == ["generation-1"], "its agent has taken it out; the key is only what is left of it"


async def test_a_name_that_is_taken_gets_its_address(it: Running) -> None:
    it.roster.replace("agent", [ours("generation-0", 7, run="another")])
    it.source.take({"generation-0": "ours 1"})
    await it.until("generation-0@h:1")


async def test_what_cannot_be_read_is_told_once(it: Running, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        it.source.take({"bad": "problem", "a": "ours 1"})
    await it.until("a")
    assert [r.message for r in caplog.records if "cannot be read" in r.message] == [
        "a registration that cannot be read: bad"
    ]
