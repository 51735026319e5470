from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from helpers.gangs import TIMEOUT_S, gang_spec
from torch import Tensor

from trtdisagg.engine.gang import gang
from trtdisagg.engine.gang.follow import obey, telling
from trtdisagg.engine.gang.frames import Frames, StreamEndedError, encode
from trtdisagg.engine.gang.leader import LeaderRunner, Opened, open_gang
from trtdisagg.engine.gang.meeting import Place, join
from trtdisagg.engine.gang.messages import (
    Compute,
    Ending,
    FromFollower,
    FromLeader,
    Goodbye,
    Loaded,
    SharedMemory,
    Store,
    Ticks,
)
from trtdisagg.engine.gang.ways import reach_way
from trtdisagg.engine.interfaces import EngineBrokenError
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.errors import StartupError
from trtdisagg.protocol.parallel import Parallel

pytestmark = pytest.mark.anyio

THREE = Parallel(tp_size=3)
STEP = Step([Chunk([5, 6], 0, [0], 1)])
SECRET = b"secret"


class Summing:
    """A runner that needs all ranks: each adds its number to the tokens."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.steps: list[Step] = []

    def run(self, step: Step) -> Tensor:
        self.steps.append(step)
        x = torch.tensor([step.chunks[0].tokens], dtype=torch.float32) + self.ranks.rank
        self.ranks.add_up(x)
        return x


class Follower(threading.Thread):
    """A rank; `live` is what it does once it has joined."""

    def __init__(self, directory: Path, rank: int, live: Callable[[Place, Ranks], None]) -> None:
        super().__init__()
        self._spec = gang_spec(directory, THREE, rank)
        self._live = live
        self.error: Exception | None = None

    def run(self) -> None:
        place = join(self._spec, SECRET, TIMEOUT_S)
        try:
            where = place.steps.receive()
            assert isinstance(where, SharedMemory | Store)
            ranks = reach_way(self._spec, where)
            ranks.connect()
            self._live(place, ranks)
        except Exception as e:  # noqa: BLE001 - for the test to look at
            self.error = e.with_traceback(None)  # whose frames would keep its connections
        finally:
            for stream in place:
                stream.close()


def usual(place: Place, ranks: Ranks) -> None:
    place.steps.send(encode(Loaded()))
    obey(place.steps, Summing(ranks), Progress())


@asynccontextmanager
async def open_three(
    directory: Path,
    live: Callable[[Place, Ranks], None],
    on_lost: Callable[[str], None] | None = None,
    first: Callable[[Place, Ranks], None] = usual,
) -> AsyncIterator[tuple[Opened, list[Follower]]]:
    """A gang whose rank 1 is as usual, and rank 2 lives as the test says."""
    followers = [Follower(directory, 1, first), Follower(directory, 2, live)]
    for follower in followers:
        follower.start()
    try:
        async with open_gang(gang_spec(directory, THREE), SECRET, on_lost) as opened:
            yield opened, followers
    finally:
        for follower in followers:
            await asyncio.to_thread(follower.join, TIMEOUT_S)
            assert not follower.is_alive()


async def compute(opened: Opened) -> Tensor:
    return await asyncio.to_thread(LeaderRunner(Summing(opened.ranks), opened.gang).run, STEP)


async def test_a_step_is_computed_by_all_and_goodbye_ends_them(short_path: Path) -> None:
    async with open_three(short_path, usual) as (opened, followers):
        await opened.gang.loaded()
        for _ in range(3):
            assert (await compute(opened)).tolist() == [[15 + 3, 18 + 3]]
    assert [follower.error for follower in followers] == [None, None]
    assert not opened.gang.ended.done()


async def test_a_rank_that_ends_is_named_at_once(short_path: Path) -> None:
    lost: list[str] = []
    has_ended = threading.Event()

    def short(place: Place, ranks: Ranks) -> None:
        place.steps.send(encode(Loaded()))
        has_ended.wait(TIMEOUT_S)

    async with open_three(short_path, short, lost.append) as (opened, followers):
        await opened.gang.loaded()
        has_ended.set()
        async with asyncio.timeout(TIMEOUT_S):
            assert await asyncio.shield(opened.gang.ended) == "rank 2 of context-0 has ended"
        with pytest.raises(EngineBrokenError, match="rank 2 of context-0 has ended"):
            await compute(opened)
    assert lost == ["rank 2 of context-0 has ended"]
    assert isinstance(followers[0].error, (StreamEndedError, RuntimeError))  # it ends, too


async def test_a_rank_that_fails_says_why_before_it_is_loaded(short_path: Path) -> None:
    def poor(place: Place, ranks: Ranks) -> None:
        place.steps.send(encode(Ending("no memory")))

    with pytest.raises(StartupError, match="rank 2 of context-0 has ended: no memory"):
        async with open_three(short_path, poor) as (opened, _):
            await opened.gang.loaded()


async def test_a_rank_that_ends_within_a_step_is_the_reason_told(short_path: Path) -> None:
    """What rank 0 gets is an error of its collective; which rank it was, the streams say."""

    def faint(place: Place, ranks: Ranks) -> None:
        place.steps.send(encode(Loaded()))
        place.steps.receive()

    async with open_three(short_path, faint) as (opened, _):
        await opened.gang.loaded()
        with pytest.raises(EngineBrokenError, match=r"^rank 2 of context-0 has ended$"):
            await compute(opened)


async def test_a_step_that_fails_in_rank_0_ends_the_gang(short_path: Path) -> None:
    class Failing:
        def run(self, step: Step) -> Tensor:
            raise ValueError("no such layer")

    def alone(place: Place, ranks: Ranks) -> None:
        """Threads cannot be ended as processes are, so they wait for nobody."""
        place.steps.send(encode(Loaded()))
        place.steps.receive()
        with pytest.raises(StreamEndedError):
            place.steps.receive()

    async with open_three(short_path, alone, first=alone) as (opened, _):
        await opened.gang.loaded()
        with pytest.raises(EngineBrokenError, match="a step of context-0 failed in rank 0: ValueError: no such layer"):
            await asyncio.to_thread(LeaderRunner(Failing(), opened.gang).run, STEP)
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.shield(opened.gang.ended)


async def test_what_others_compute_is_progress(short_path: Path) -> None:
    """Two ranks that have nothing to say are silent; the sum of what all have said only grows."""
    told = threading.Event()

    def eager(place: Place, ranks: Ranks) -> None:
        place.steps.send(encode(Loaded()))
        place.steps.send(encode(Ticks(7)))
        told.set()
        assert isinstance(place.steps.receive(), Goodbye)

    async with open_three(short_path, eager) as (opened, _):
        await opened.gang.loaded()
        assert await asyncio.to_thread(told.wait, TIMEOUT_S)
        async with asyncio.timeout(TIMEOUT_S):
            while opened.gang.num_ticks() != 7:
                await asyncio.sleep(0.01)


async def test_ticks_are_told_while_the_streams_other_way_is_waited_on() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        progress = Progress()
        steps: Frames[FromLeader] = Frames(ours, FromLeader)
        waiting = asyncio.create_task(asyncio.to_thread(steps.receive))
        async with asyncio.timeout(TIMEOUT_S), telling(steps, progress):
            progress.tick()
            assert (await asyncio.to_thread(theirs.recv, 100)).endswith(encode(Ticks(1))[4:])
        theirs.sendall(encode(Goodbye()))
        assert await waiting == Goodbye()


async def test_a_rank_that_does_not_go_is_not_waited_for_for_ever(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdisagg.engine.gang.gang.GOODBYE_TIMEOUT_S", 0.1)

    def stubborn(place: Place, ranks: Ranks) -> None:
        place.steps.send(encode(Loaded()))
        assert isinstance(place.steps.receive(), Goodbye)
        with pytest.raises(StreamEndedError):
            place.steps.receive()  # then the connection is cut

    async with open_three(short_path, stubborn) as (opened, followers):
        await opened.gang.loaded()
    assert followers[1].error is None


async def test_the_goodbye_waits_for_no_rank_that_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end of the connection is full of steps; whoever says goodbye is the event loop."""
    monkeypatch.setattr(gang, "GOODBYE_TIMEOUT_S", 0.05)
    here, there = socket.socketpair()
    with there:
        with contextlib.suppress(BlockingIOError):
            while True:
                here.send(encode(Compute(STEP)), socket.MSG_DONTWAIT)
        leader = gang.Gang("context-0", {1: Frames(here, FromFollower)})
        leader.watch()
        await leader.close()
        assert here.fileno() == -1
