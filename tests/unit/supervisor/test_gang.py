"""Several processes as one child: histories of what ranks say and how they end, with processes that only pretend."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable

import anyio
import pytest

from trtdisagg.protocol.commands import Gone
from trtdisagg.protocol.reports import Beat, Failed, Loading, Ready, Report
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor import gang as module
from trtdisagg.supervisor.gang import Gang
from trtdisagg.supervisor.processes import LostError

pytestmark = pytest.mark.anyio

LOADING, READY, BEAT = Loading(stage="weights"), Ready(host="h", port=1), Beat(stats=Stats())


class Rank:
    """Stands for a ChildProcess: it ends when the test says so, or when it is killed."""

    def __init__(
        self, rank: int, say: Callable[[bytes], None], tell: Callable[[Report], None], end: Callable[[], None]
    ):
        self.rank, self.say, self.tell, self._on_end = rank, say, tell, end
        self.pid: int | None = None
        self.returncode: int | None = None
        self.last_lines = deque([f"last of {rank}"])
        self.signals: list[int] = []
        self.commands: list[object] = []
        self.is_calm = False
        self.cannot_start = False
        self.may_start: anyio.Event | None = None
        self._lost: LostError | None = None
        self._over = anyio.Event()

    async def run(self, on_start: Callable[[int], None]) -> int:
        if self.cannot_start:
            raise FileNotFoundError("no such program")
        if self.may_start is not None:
            await self.may_start.wait()
        self.pid = 100 + self.rank
        on_start(self.pid)
        await self._over.wait()
        if self._lost is not None:
            raise self._lost
        assert self.returncode is not None
        return self.returncode

    def end(self, code: int) -> None:
        self.returncode = code
        self._on_end()
        self._over.set()

    def lose(self, why: str) -> None:
        self._lost = LostError(why)
        self._on_end()
        self._over.set()

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL and self.returncode is None:
            self.end(-signal.SIGKILL)

    def command(self, command: object) -> None:
        self.commands.append(command)

    def calm_down(self) -> None:
        self.is_calm = True


class World:
    """A gang of three, and what it has said."""

    def __init__(self, *, in_turn: bool = False) -> None:
        self.ranks: list[Rank] = []
        self.lines: list[bytes] = []
        self.reports: list[Report] = []
        self.pids: list[int] = []
        self.how = ""
        self.gang = Gang(self._make, 3, in_turn=in_turn, on_line=self.lines.append, on_report=self.reports.append)

    def _make(self, rank: int, *, on_line, on_report, on_end) -> Rank:  # type: ignore[no-untyped-def]
        self.ranks.append(Rank(rank, on_line, on_report, on_end))
        return self.ranks[-1]

    async def run(self, *story: Callable[[], None]) -> str:
        """Run the gang; each part of the story happens when the one before has had its effect."""
        async with anyio.create_task_group() as tasks:

            async def tell() -> None:
                for part in story:
                    await anyio.wait_all_tasks_blocked()
                    part()

            tasks.start_soon(tell)
            with anyio.fail_after(60):
                try:
                    self.how = await self.gang.run(self.pids.extend)
                except OSError as e:
                    self.how = str(e)
        return self.how


async def test_what_rank_0_says_is_what_the_server_says() -> None:
    world = World()
    one, two, three = world.ranks
    how = await world.run(
        lambda: [r.tell(LOADING) for r in world.ranks],
        lambda: [r.say(b"hello\n") for r in world.ranks],
        lambda: two.tell(BEAT),
        lambda: one.tell(READY),
        lambda: one.tell(BEAT),
        lambda: world.gang.command(Gone(incarnation="x")),
        lambda: world.gang.signal(signal.SIGTERM),
        lambda: [r.end(0) for r in (three, one, two)],
    )
    assert world.pids == [100, 101, 102]
    assert world.reports == [LOADING, READY, BEAT]
    assert world.lines == [b"hello\n", b"[rank 1] hello\n", b"[rank 2] hello\n"]
    assert [len(r.commands) for r in world.ranks] == [1, 0, 0]
    assert [r.signals[:1] for r in world.ranks] == [[signal.SIGTERM], [signal.SIGKILL], [signal.SIGKILL]]
    assert [r.is_calm for r in world.ranks] == [False, True, True]
    assert (how, list(world.gang.last_lines)) == ("exit status 0", ["last of 0"])


async def test_the_rank_that_ends_first_says_how_and_takes_the_others_with_it() -> None:
    world = World()
    one, two, three = world.ranks
    how = await world.run(
        lambda: three.end(-signal.SIGSEGV),
        lambda: one.tell(Failed(message="rank 2 is gone")),
    )
    assert (one.returncode, two.returncode) == (-signal.SIGKILL, -signal.SIGKILL)
    assert (how, list(world.gang.last_lines)) == ("rank 2: killed by SIGSEGV", ["last of 2"])
    assert world.reports == [], "what the others say then is a consequence"


async def test_a_failure_has_its_rank_before_it_and_counts_once() -> None:
    world = World()
    one, two, _ = world.ranks
    await world.run(
        lambda: two.tell(Failed(message="no memory", fatal=True)),
        lambda: one.tell(Failed(message="rank 1 is gone")),
        lambda: one.end(1),
    )
    assert world.reports == [Failed(message="rank 1: no memory", fatal=True)]
    assert list(world.gang.last_lines) == ["last of 1"]


async def test_a_rank_that_fails_after_another_has_ended_properly_is_to_blame() -> None:
    world = World()
    one, two, three = world.ranks
    how = await world.run(lambda: two.end(0), lambda: three.end(3))
    assert (how, one.returncode) == ("rank 2: exit status 3", -signal.SIGKILL)


async def test_who_stays_behind_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FAREWELL_S", 0.0)
    world = World()
    assert await world.run(lambda: world.ranks[0].end(0)) == "exit status 0"
    assert world.ranks[2].returncode == -signal.SIGKILL


async def test_a_server_that_is_killed_was_killed_whole() -> None:
    world = World()
    assert await world.run(lambda: world.gang.signal(signal.SIGKILL)) == "killed by SIGKILL"


async def test_one_that_cannot_be_started_ends_all() -> None:
    world = World()
    world.ranks[1].cannot_start = True
    assert await world.run() == "no such program"
    assert world.pids == []
    assert all(r.signals == [signal.SIGKILL] for r in world.ranks)


async def test_a_silent_rank_silences_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    world = World()
    one, two, three = world.ranks
    for after_s, beating, is_heard in ((1.0, (one,), True), (1.5, (two, one), False), (0.5, (three, one), True)):
        now[0] += after_s
        world.reports.clear()
        for rank in beating:
            rank.tell(BEAT)
        assert bool(world.reports) == is_heard


async def test_in_turn_the_others_are_started_when_rank_0_is() -> None:
    world = World(in_turn=True)
    started: list[list[int | None]] = []
    zero, one, two = world.ranks
    zero.may_start = anyio.Event()
    await world.run(
        lambda: started.append([rank.pid for rank in world.ranks]),
        zero.may_start.set,
        lambda: started.append([rank.pid for rank in world.ranks]),
        lambda: [rank.end(0) for rank in (one, two, zero)],
    )
    assert started == [[None, None, None], [100, 101, 102]]


async def test_in_turn_nobody_is_started_when_rank_0_cannot_be() -> None:
    world = World(in_turn=True)
    world.ranks[0].cannot_start = True
    assert await world.run() == "no such program"
    assert [rank.pid for rank in world.ranks] == [None, None, None]


async def test_a_rank_that_is_out_of_reach_says_why() -> None:
    world = World()
    how = await world.run(lambda: world.ranks[2].lose("node02 is lost: no word from it for 10 s"))
    assert how == "node02 is lost: no word from it for 10 s"
    assert all(signal.SIGKILL in rank.signals for rank in world.ranks)
