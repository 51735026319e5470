"""A process on another node, from the head's side: the same as one here."""

from __future__ import annotations

import signal
from typing import Any

import anyio
import msgspec
import pytest
from helpers.gangs import gang_spec
from helpers.nodes import hello

from trtdisagg.protocol.commands import Gone
from trtdisagg.protocol.nodes import (
    CalmDown,
    Cleared,
    Commanded,
    Ended,
    Line,
    Reported,
    Signal,
    Start,
    Started,
    StartFailed,
    ToNode,
)
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.reports import Loading
from trtdisagg.supervisor.nodes.link import Link
from trtdisagg.supervisor.nodes.remote import RemoteProcess
from trtdisagg.supervisor.processes import LostError

pytestmark = pytest.mark.anyio
LOADING = Loading(stage="weights")


class World:
    """A node that is there, and a process of it."""

    def __init__(self, tmp_path: Any) -> None:
        self.said: list[object] = []
        self.link = Link(
            "node01",
            timeout_s=10,
            on_notice=lambda _: None,
            on_back=lambda: None,
            on_leaving=lambda _: None,
            on_lost=lambda: None,
        )
        self.link.open(hello(), anyio.CancelScope())
        self.start = Start(process="p", spec=gang_spec(tmp_path, Parallel()), argv=["engine"])
        self.process = RemoteProcess(
            self.link,
            "p",
            lambda: self.start,
            on_gang_address=self.said.append,
            on_line=self.said.append,
            on_report=self.said.append,
            on_end=lambda: self.said.append("end"),
        )

    def asked(self) -> list[ToNode]:
        decoder: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)
        return [decoder.decode(message) for _, message in self.link.session.due()]

    async def run(self, *story: Any) -> object:
        """The process run to its end; each part of the story happens when the one before has had its effect."""
        outcome: list[object] = []

        async def run_process() -> None:
            try:
                outcome.append(await self.process.run(self.said.append))
            except (OSError, LostError) as e:
                outcome.append(e)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_process)
            for part in story:
                await anyio.wait_all_tasks_blocked()
                part() if callable(part) else self.link.handle(part)
        return outcome[0]


async def test_a_whole_life(tmp_path: Any) -> None:
    world = World(tmp_path)
    outcome = await world.run(
        Started(process="p", pid=7, gang_address="10.0.0.1:5"),
        Line(process="p", line=b"hello\n"),
        Reported(process="p", report=LOADING),
        lambda: world.process.command(Gone(incarnation="x")),
        world.process.calm_down,
        lambda: world.process.signal(signal.SIGTERM),
        Ended(process="p", returncode=3),
        lambda: world.said.append(world.process.returncode),
        Cleared(process="p", returncode=3),
    )
    assert outcome == 3
    assert world.said == ["10.0.0.1:5", 7, b"hello\n", LOADING, "end", 3]
    assert list(world.process.last_lines) == ["hello"]
    assert world.asked() == [
        world.start,
        Commanded(process="p", command=Gone(incarnation="x")),
        CalmDown(process="p"),
        Signal(process="p", number=15),
    ]
    world.process.signal(signal.SIGKILL)
    assert world.asked() == []
    assert world.link.processes == {}


async def test_one_that_cannot_be_started_there(tmp_path: Any) -> None:
    world = World(tmp_path)
    outcome = await world.run(StartFailed(process="p", message="no such program"))
    assert isinstance(outcome, OSError)
    assert str(outcome) == "no such program"
    assert world.process.pid is None


async def test_its_node_is_lost(tmp_path: Any) -> None:
    world = World(tmp_path)
    outcome = await world.run(Started(process="p", pid=7), lambda: world.link.passed(10))
    assert str(outcome) == "node01 is lost: no word from it for 10 s"
    assert world.said == [7, "end"]
    assert world.process.returncode is None
    again = RemoteProcess(world.link, "q", lambda: world.start, on_line=print, on_report=print)
    with pytest.raises(LostError, match="node01 is lost"):
        await again.run(print)


async def test_a_signal_before_the_start_has_its_effect(tmp_path: Any) -> None:
    world = World(tmp_path)
    world.process.signal(signal.SIGKILL)
    assert await world.run() == -signal.SIGKILL
    assert world.asked() == []


async def test_one_whose_task_is_cancelled_is_killed(tmp_path: Any) -> None:
    world = World(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.process.run, world.said.append)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            while not world.link.session.has_all_arrived and Signal(process="p", number=9) not in world.asked():
                await anyio.lowlevel.checkpoint()
            world.link.handle(Cleared(process="p", returncode=-9))
    assert world.process.returncode == -9
