"""What becomes of the servers of a node that goes: who moves, who stops, who is let be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from helpers.nodes import HEAD, hello
from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.nodes import Leaving as Going
from trtdisagg.supervisor.child import Child, Leaving
from trtdisagg.supervisor.events import Added, Event, LeaveAsked, Noticed
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.nodes.presence import Presence
from trtdisagg.supervisor.state import ClusterState, Stop, initial

pytestmark = pytest.mark.anyio

GOING = Leaving(at=0, then="gone", deadline=9, reason="is removed")


class Planned:
    """A plan of a cluster, or of a server."""

    supervision = SupervisionConfig()

    def __init__(self, *nodes: str) -> None:
        self.nodes = list(nodes)


class World:
    """A cluster with these servers, all on node01, and another node with room for all."""

    def __init__(self, *children: Child) -> None:
        self.plan: Any = Planned()
        self.state = replace(initial("run", {}, 0.0), children={child.name: child for child in children})
        self.nodes = {child.name: "node01" for child in children}
        self.events: list[Event] = []
        self.tasks: list[Callable[[], Coroutine[None, None, None]]] = []
        self.moved: list[str] = []
        self.links = NodeLinks(HEAD, [HEAD, "node01"], address="::1", secret=b"s", digest="", file="")
        self.link = self.links._links["node01"]
        self.come("one")
        Presence(self, self.links).watch()

    def come(self, session: str) -> None:
        """An agent of node01."""
        connection = anyio.CancelScope()
        self.link.open(hello(session=session), connection)
        self.close = functools.partial(self.link.closed, connection, "reset")

    def handle(self, event: Event) -> None:
        if not isinstance(event, Noticed):
            self.events.append(event)

    def soon(self, task: Callable[[], Coroutine[None, None, None]]) -> None:
        self.tasks.append(task)

    async def settle(self) -> None:
        for task in self.tasks:
            await task()

    async def until(self, is_so: Callable[[ClusterState], bool], _deadline: float) -> bool:
        return is_so(self.state)

    def plan_of(self, name: str) -> Any:
        return Planned(self.nodes[name])

    async def move(self, names: Sequence[str]) -> Sequence[str]:
        self.moved += names
        self.nodes |= dict.fromkeys(names, HEAD)
        return names

    def put(self, name: str, **changes: Any) -> None:
        self.state.children[name] = replace(self.state.children[name], **changes)


def child(name: str, **more: Any) -> Child:
    return Child(name=name, role="context", incarnation=more.pop("incarnation", name), **{"phase": "ready", **more})


def everybody() -> World:
    return World(
        child("context-0"),
        child("context-1", phase="stopped", is_wanted=False, incarnation=None),
        child("context-2", phase="draining", leaving=GOING),
        child("context-3", phase="failed", incarnation=None),
    )


async def test_who_was_drained_or_is_being_removed_does_not_come_back_elsewhere() -> None:
    world = everybody()
    world.link.handle(Going(reason="SIGTERM"))
    await world.settle()
    assert world.moved == ["context-0", "context-3"]
    assert [(e.name, e.then) for e in world.events if isinstance(e, LeaveAsked)] == [
        ("context-0", "restart"),
        ("context-3", "restart"),
    ]
    assert world.link.is_dismissed


async def test_who_goes_while_another_place_is_looked_for_is_let_go() -> None:
    world = World(child("context-0"))
    world.link.handle(Going(reason="SIGTERM"))
    (leave,) = world.tasks
    world.tasks.clear()
    move = world.move

    async def slow(names: Sequence[str]) -> Sequence[str]:
        world.put("context-0", leaving=GOING)
        return await move(names)

    world.move = slow  # type: ignore[method-assign]
    await leave()
    assert world.events == []


async def test_who_failed_with_its_node_starts_where_there_is_room() -> None:
    world = everybody()
    world.link.passed(99)
    world.put("context-0", phase="failed", incarnation=None)
    await world.settle()
    assert world.moved == ["context-0"]
    assert [e.name for e in world.events if isinstance(e, Added)] == ["context-0"]


async def test_who_found_no_place_has_another_chance_when_its_node_is_back() -> None:
    world = everybody()
    world.link.passed(99)
    world.come("two")
    assert [e.name for e in world.events if isinstance(e, Added)] == ["context-3"]


async def test_a_cluster_that_goes_down_moves_nobody() -> None:
    world = everybody()
    world.link.handle(Going(reason="SIGTERM"))
    world.state = replace(world.state, stop=Stop(at=0, reason="down", exit_code=0))
    await world.settle()
    assert (world.moved, world.events) == ([], [])
    assert world.link.is_dismissed


async def test_who_is_to_start_on_a_node_that_is_back_already_starts_there() -> None:
    world = everybody()
    world.close()
    world.come("two")
    await world.settle()
    assert world.moved == []


async def test_an_agent_that_comes_while_the_one_before_drains_may_stay() -> None:
    world = everybody()

    async def until(*_: object) -> bool:
        world.close()
        world.come("two")
        return True

    world.until = until  # type: ignore[method-assign]
    world.link.handle(Going(reason="SIGTERM"))
    await world.settle()
    assert world.link.is_staying
