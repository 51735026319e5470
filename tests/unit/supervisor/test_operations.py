"""Verbs on servers whose node is gone: they start elsewhere, or it is said what is missing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import pytest
from helpers.plans import FAKE_ENGINE, host
from msgspec.structs import replace

from trtdisagg.config.load import load
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.control import ScaleRequest, ServersRequest
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.operations import Operations
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.reducer import reduce
from trtdisagg.supervisor.state import ClusterState, initial
from trtdisagg.supervisor.survey import survey
from trtdisagg.supervisor.wish import Wish

pytestmark = pytest.mark.anyio

FILE = f"""\
model: fake
command: {FAKE_ENGINE!r}
context_servers: {{num_instances: 2}}
generation_servers: {{}}
"""


class World:
    """A cluster on three nodes with a server each; context-1 was on node02, which is gone.

    :param max_ranks: room on each node.
    """

    def __init__(self, directory: Path, *, max_ranks: int = 9, text: str = FILE) -> None:
        (directory / "c.yaml").write_text(text)
        self.loaded = load(directory / "c.yaml")
        self.max_ranks = max_ranks
        self.gone: set[str] = set()
        self.notices: list[str] = []
        self.plan = survey(self.loaded.cluster, name="c", file=self.loaded.path, nodes_of=self.nodes_of)
        self.gone = {"node02"}
        self.state = initial("run", {}, 0.0)
        for server in self.plan.servers:
            self.put(Child(name=server.name, role=server.role, phase="ready", incarnation=server.name))
        self.put(replace(self.state.children["context-1"], phase="stopped", incarnation=None, is_wanted=False))
        self.operations = Operations(self, Wish(loaded=self.loaded))

    def put(self, child: Child) -> None:
        self.state.children[child.name] = child

    def nodes_of(self, _here: Host) -> Sequence[Node]:
        names = ["node01", "node02", "node03"]
        room = self.max_ranks
        return [
            Node(name=name, address=f"10.0.0.{i}", host=host(4), max_ranks=room, is_here=name not in self.gone)
            for i, name in enumerate(names)
        ]

    def has_left(self, node: str) -> bool:
        return node in self.gone

    def handle(self, event: Event) -> None:
        self.state = reduce(self.state, event)
        if isinstance(event, Noticed):
            self.notices.append(event.text)

    def replan(self, plan: Plan) -> None:
        self.plan = plan

    def plan_of(self, name: str) -> ChildPlan:
        return next(server for server in self.plan.servers if server.name == name)

    def soon(self, task: Callable[[], Coroutine[None, None, None]]) -> None:
        raise AssertionError(task)

    async def until(self, is_so: Callable[[ClusterState], bool], _deadline: float) -> bool:
        return is_so(self.state)

    @property
    def homes(self) -> dict[str, list[str]]:
        return {server.name: server.nodes for server in self.plan.servers}


async def test_one_whose_node_is_gone_restarts_where_there_is_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.homes == {"context-0": ["node01"], "context-1": ["node02"], "generation-0": ["node03"]}
    await world.operations.restart(ServersRequest(names=["context-1"], wait=False))
    assert world.homes == {"context-0": ["node01"], "context-1": ["node01"], "generation-0": ["node03"]}
    assert world.state.children["context-1"].phase == "starting"


async def test_scaling_up_takes_one_whose_node_is_gone_to_where_there_is_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.operations.scale(ScaleRequest(counts={"context": 2}, wait=False))
    assert world.homes["context-1"] == ["node01"]
    assert world.state.children["context-1"].phase == "starting"


async def test_without_room_it_is_said_what_is_missing_and_nothing_is_started(tmp_path: Path) -> None:
    world = World(tmp_path, max_ranks=1)
    with pytest.raises(ConfigError, match="context-1 needs 1 place"):
        await world.operations.restart(ServersRequest(names=["context-1"], wait=False))
    assert world.state.children["context-1"].phase == "stopped"
    await world.operations.restart(ServersRequest(names=["context-0"], wait=False))


async def test_who_cannot_move_does_not_hold_up_who_can(tmp_path: Path) -> None:
    """context-0 is to begin on the node that is gone."""
    text = FILE.replace("{num_instances: 2}", "{num_instances: 2, urls: ['node02:8001', 'node02:8002']}")
    world = World(tmp_path, text=text.replace("generation_servers: {}", "generation_servers: {num_instances: 6}"))
    assert [name for name, home in world.homes.items() if home == ["node02"]] == [
        "context-0",
        "context-1",
        "generation-5",
    ]
    assert await world.operations.move(["context-0", "generation-5"]) == ["generation-5"]
    assert world.homes["generation-5"] == ["node03"]
    assert world.notices == [
        "generation-5 goes to node03",
        "for context-0 there is no other place: context-0 is to begin on node02 (by context_servers.urls), and that "
        "node is gone",
    ]


async def test_without_a_file_nobody_moves_and_nothing_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert await Operations(world, None).move(["context-1"]) == []
    assert world.notices == []
