"""A head and the agents of one node, whatever is cut, lost, stopped or started anew, and when: what the head believes
that runs there is what runs there, as soon as both have heard of each other again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from helpers.nodes import hello
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.protocol.nodes import Cleared, Signal, ToHead, ToNode
from trtdisagg.supervisor.nodes.greeting import RefusedError
from trtdisagg.supervisor.nodes.link import Link
from trtdisagg.supervisor.nodes.session import Session

TIMEOUT_S = 10.0
_encode = msgspec.msgpack.Encoder().encode
_to_head: msgspec.msgpack.Decoder[ToHead] = msgspec.msgpack.Decoder(ToHead)
_to_node: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)


class Connection:
    """Both directions of it. It is over for an end as soon as that end knows."""

    def __init__(self) -> None:
        self.to_head: deque[tuple[int, int, bytes]] = deque()
        self.to_node: deque[tuple[int, int, bytes]] = deque()
        self.is_cut = self.head_knows = False

    def cancel(self) -> None:
        self.is_cut = self.head_knows = True


class Agent:
    """A node agent: starts what it is told to, and ends all of it when it ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = Session()
        self.is_let_in = self.is_over = False
        self.silent_s = 0.0
        self.connection: Connection | None = None
        self.runs: set[str] = set()
        self.started: list[str] = []

    def end(self) -> None:
        self.is_over, self.connection = True, None
        self.runs.clear()

    def handle(self, message: ToNode) -> None:
        """A signal stands for a start: it is as short."""
        assert isinstance(message, Signal)
        self.runs.add(message.process)
        self.started.append(message.process)


class Process:
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.asked = world, name, world.link._session_id
        self.num_ends = 0

    def heard(self, _: ToHead) -> None:
        self.num_ends += 1
        del self.world.link.processes[self.name]

    def lost(self, _why: str) -> None:
        self.num_ends += 1


class World:
    def __init__(self) -> None:
        self.num_agents = 1
        self.agent = Agent("1")
        self.agents = [self.agent]
        self.processes: list[Process] = []
        self.connections: list[Connection] = []
        self.link = Link(
            "node01",
            timeout_s=TIMEOUT_S,
            on_notice=lambda _: None,
            on_back=lambda: None,
            on_leaving=lambda _: None,
            on_lost=lambda: None,
        )

    # --- what may happen --------------------------------------------------------------------------------------------

    def start_process(self) -> None:
        if self.link.is_usable:
            process = Process(self, f"p{len(self.processes)}")
            self.processes.append(process)
            self.link.send(Signal(process=process.name, number=1))
            self.link.processes[process.name] = process

    def end_process(self) -> None:
        if self.agent.runs:
            name = min(self.agent.runs)
            self.agent.runs.remove(name)
            self.agent.session.send(_encode(Cleared(process=name, returncode=0)))

    def connect(self) -> None:
        self._connect(welcome_arrives=True)

    def connect_in_vain(self) -> None:
        self._connect(welcome_arrives=False)

    def _connect(self, *, welcome_arrives: bool) -> None:
        agent = self.agent
        if agent.is_over or (agent.connection is not None and not agent.connection.is_cut):
            return
        connection = Connection()
        said = hello(session=agent.name, is_new=not agent.is_let_in, received=agent.session.num_received)
        try:
            self.link.open(said, connection)
        except RefusedError:
            agent.end()
            return
        self.connections.append(connection)
        self.link.session.reopened(said.received)
        if not welcome_arrives:
            connection.is_cut = True
            return
        agent.is_let_in, agent.connection, agent.silent_s = True, connection, 0.0
        agent.session.reopened(self.link.session.num_received)

    def node_writes(self) -> None:
        if (connection := self.agent.connection) is not None:
            session = self.agent.session
            received = session.tell_received()
            connection.to_head.extend((n, received, message) for n, message in session.due() or [(0, b"")])

    def head_writes(self) -> None:
        if self._at_head is not None:
            session = self.link.session
            received = session.tell_received()
            self._at_head.to_node.extend((n, received, message) for n, message in session.due() or [(0, b"")])

    def node_reads(self) -> None:
        agent = self.agent
        if agent.connection is not None and agent.connection.to_node and not agent.connection.is_cut:
            agent.silent_s = 0.0
            number, received, message = agent.connection.to_node.popleft()
            if agent.session.take(number, received):
                agent.handle(_to_node.decode(message))

    def head_reads(self) -> None:
        if self._at_head is not None and self._at_head.to_head and not self._at_head.is_cut:
            number, received, message = self._at_head.to_head.popleft()
            self.link.heard()
            if self.link.session.take(number, received):
                self.link.handle(_to_head.decode(message))

    def flow(self) -> None:
        self.node_writes()
        self.head_writes()
        for _ in range(100):
            self.node_reads()
            self.head_reads()

    def cut(self) -> None:
        """The node sees it at once, the head does not."""
        if self.agent.connection is not None:
            self.agent.connection.is_cut, self.agent.connection = True, None

    def head_sees_cut(self) -> None:
        for connection in self.connections:
            if connection.is_cut and not connection.head_knows:
                connection.head_knows = True
                self.link.closed(connection, "reset")

    def time_passes(self) -> None:
        self.link.passed(TIMEOUT_S / 3)
        self.agent.silent_s += TIMEOUT_S / 3
        if self.agent.is_let_in and self.agent.connection is None and self.agent.silent_s >= TIMEOUT_S:
            self.agent.end()

    def node_is_stopped(self) -> None:
        """For longer than the head waits; its connection has not ended for it."""
        for _ in range(4):
            self.link.passed(TIMEOUT_S / 3)

    def agent_is_killed(self) -> None:
        self.cut()
        self.agent.end()

    def agent_starts_anew(self) -> None:
        if self.agent.is_over:
            self.num_agents += 1
            self.agent = Agent(str(self.num_agents))
            self.agents.append(self.agent)

    @property
    def _at_head(self) -> Connection | None:
        return next((c for c in self.connections if c is self.link._connection), None)

    # --- what has to be so ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The network is whole again, and there is an agent."""
        while self.link.state != "here" or self.agent.connection is not self._at_head:
            self.cut()
            self.head_sees_cut()
            self.agent_starts_anew()
            self.connect()
        for _ in range(3):
            self.flow()

    def check(self) -> None:
        assert set(self.link.processes) == self.agent.runs
        for process in self.processes:
            assert process.num_ends == (process.name not in self.agent.runs)
        for agent in self.agents:
            asked = [process.name for process in self.processes if process.asked == agent.name]
            in_order = [name for name in asked if name in agent.started]
            assert agent.started == in_order, "each once, and by no other agent than the one that was asked"


ACTS: list[Callable[[World], None]] = [
    World.start_process,
    World.end_process,
    World.connect,
    World.connect,
    World.connect_in_vain,
    World.node_writes,
    World.head_writes,
    World.node_reads,
    World.head_reads,
    World.flow,
    World.flow,
    World.flow,
    World.cut,
    World.head_sees_cut,
    World.time_passes,
    World.node_is_stopped,
    World.agent_is_killed,
    World.agent_starts_anew,
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(ACTS), min_size=30, max_size=60))
def test_what_the_head_believes_is_what_is_so(story: list[Callable[[World], None]]) -> None:
    world = World()
    for act in story:
        act(world)
    world.settle()
    world.check()
