"""Requests that wait: which wait, in which order they are served, for how long, and what wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from trtdisagg.errors import DeadlineError, OverloadedError, UnavailableError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.members.uses import Claim, Uses
from trtdisagg.proxy.path import admission as admission_module
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.routing.ask import Ask, View
from trtdisagg.proxy.routing.choose import Route, choose
from trtdisagg.registry.members import Roster, Snapshot

pytestmark = pytest.mark.anyio

CONTEXT = Member(name="context-0", role="context", model="m", url="h:1")
GENERATION = Member(name="generation-0", role="generation", model="m", url="h:2", max_batch_size=4)
ROOM = 5
"""Of GENERATION."""
BOTH = Route(CONTEXT, GENERATION, "both")


class Bench:
    """A roster, and requests that want a server of it."""

    def __init__(self, max_waiting: int = 100, *, has_others: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.roster = Roster()
        self.uses = Uses(self.roster)
        self.admission = Admission(self.roster, Deadlines(), max_waiting=max_waiting, has_others=has_others)
        self.uses.watch(self.admission.has_room)
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[Route]] = []
        self.num_choices = 0

    def ask(self, name: str = "", model: str = "m", due_s: float = 20.0, **how: Any) -> asyncio.Task[Route]:
        return self._start(self._run(name, Ask(model=model), due_s, None, how))

    def hold(
        self, name: str = "", model: str = "m", tokens: int = 0, **how: Any
    ) -> tuple[asyncio.Task[Route], asyncio.Event]:
        """One that is served until its event is set."""
        over = asyncio.Event()
        return self._start(self._run(name, Ask(model=model, num_prompt_tokens=tokens), 20.0, over, how)), over

    def _start(self, request: Coroutine[Any, Any, Route]) -> asyncio.Task[Route]:
        self.tasks.append(asyncio.create_task(request))
        return self.tasks[-1]

    async def _run(self, name: str, ask: Ask, due_s: float, over: asyncio.Event | None, how: dict[str, Any]) -> Route:
        with self.uses.claim(ask) as claim:

            def choose_for_it(now: Snapshot) -> Route | None:
                return self._choose(now, ask, claim)

            route = self.admission.at_once(choose_for_it)
            if route is None:
                due = self.loop.time() + due_s
                route = await self.admission.admit(choose_for_it, model=ask.model, due=due, **how)
            self.served.append(name)
            if over is not None:
                await over.wait()
            return route

    def _choose(self, now: Snapshot, ask: Ask, claim: Claim) -> Route | None:
        self.num_choices += 1
        route = choose(now, ask, View(self.uses.load, lambda *_: None))
        if route is not None:
            claim.take(route.context, route.generation)
        return route

    async def until_waiting(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.admission.num_waiting != number:
                await asyncio.sleep(0)

    async def until_served(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.served) != number:
                await asyncio.sleep(0)

    async def fill(self) -> list[asyncio.Event]:
        """Until there is no room."""
        self.roster.replace("agent", [GENERATION])
        overs = [self.hold("first")[1] for _ in range(ROOM)]
        await self.until_served(ROOM)
        self.served.clear()
        return overs


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(*args: Any, **fields: Any) -> Bench:
        benches.append(Bench(*args, **fields))
        return benches[-1]

    yield make
    for bench in benches:
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        assert bench.admission.num_waiting == 0
        assert bench.uses.in_use() == {}


@pytest.fixture
async def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


async def test_who_finds_a_server_does_not_wait(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT, GENERATION])
    assert await bench.ask() == BOTH


async def test_nothing_comes_nobody_waits(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT], coming={"m": ["context"], "other": ["generation"]})
    with pytest.raises(UnavailableError):
        await bench.ask()


async def test_all_who_wait_are_served_in_the_order_they_came(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT], coming={"m": ["generation"]})
    asking = [bench.ask(str(i)) for i in range(5)]
    await bench.until_waiting(5)
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    await bench.until_waiting(5)
    bench.roster.replace("agent", [CONTEXT, GENERATION])
    assert await asyncio.gather(*asking) == [BOTH] * 5
    assert bench.served == ["0", "1", "2", "3", "4"]
    assert bench.admission.num_waiting == 0


async def test_when_nothing_comes_any_more_those_who_wait_are_refused(bench: Bench) -> None:
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    asking = bench.ask()
    await bench.until_waiting(1)
    bench.roster.replace("agent", [], needs={"m": ["generation"]})
    with pytest.raises(UnavailableError, match="No generation server for `m`"):
        await asking


async def test_waiting_has_a_deadline(bench: Bench) -> None:
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    with pytest.raises(UnavailableError):
        await bench.ask(due_s=0.1)
    assert bench.admission.num_waiting == 0


async def test_a_doubt_is_waited_for_until_it_is_settled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.roster.replace("agent", [GENERATION])
    bench.roster.doubt(GENERATION)
    asking = bench.ask()
    await bench.until_waiting(1)
    bench.roster.trust(GENERATION)
    assert (await asking).generation == GENERATION

    bench.roster.doubt(GENERATION)
    asking = bench.ask()
    await bench.until_waiting(1)
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    await bench.until_waiting(1)
    again = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="2")
    bench.roster.replace("agent", [again])
    assert (await asking).generation == again

    monkeypatch.setattr(admission_module, "SETTLE_S", 0.1)
    bench.roster.doubt(again)
    with pytest.raises(UnavailableError):
        await bench.ask()


async def test_who_has_begun_waits_until_it_is_said_whether_another_server_comes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.roster.replace("agent", [CONTEXT])
    asking = bench.ask(has_begun=True)
    await bench.until_waiting(1)
    bench.roster.replace("agent", [CONTEXT], coming={"m": ["generation"]})
    await bench.until_waiting(1)
    bench.roster.replace("agent", [CONTEXT, GENERATION])
    assert await asking == BOTH

    monkeypatch.setattr(admission_module, "SETTLE_S", 0.1)
    bench.roster.replace("agent", [CONTEXT])
    with pytest.raises(UnavailableError):
        await bench.ask(has_begun=True)


async def test_one_that_leaves_waits_no_more(bench: Bench) -> None:
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    asking = bench.ask()
    await bench.until_waiting(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.admission.num_waiting == 0


# --- room -----------------------------------------------------------------------------------------------------------


async def test_who_finds_no_room_waits_for_one_to_end(bench: Bench) -> None:
    overs = await bench.fill()
    asking = [bench.ask(str(i)) for i in range(3)]
    await bench.until_waiting(3)
    bench.num_choices = 0
    overs[0].set()
    await asyncio.gather(*asking)  # each gives its room to the next
    assert bench.served == ["0", "1", "2"]
    for over in overs:
        over.set()


async def test_one_that_ends_makes_room_for_one_and_nobody_else_is_woken(bench: Bench) -> None:
    overs = await bench.fill()
    for i in range(50):
        bench.hold(str(i))
    await bench.until_waiting(50)
    bench.num_choices = 0
    overs[0].set()
    await bench.until_served(1)
    await bench.until_waiting(49)
    assert bench.served == ["0"]
    assert bench.num_choices <= 3


async def test_nobody_passes_by_those_who_wait(bench: Bench) -> None:
    overs = await bench.fill()
    waiting, _ = bench.hold("waiting")
    await bench.until_waiting(1)
    overs[0].set()
    late = bench.ask("late")
    await bench.until_served(1)
    assert bench.served == ["waiting"]
    overs[1].set()
    await late
    assert not waiting.done()


async def test_a_higher_priority_is_served_sooner_and_an_earlier_arrival_among_equals(bench: Bench) -> None:
    overs = await bench.fill()
    asking = [
        bench.ask("low", priority=-1, arrived=1.0),
        bench.ask("late", arrived=3.0),
        bench.ask("early", arrived=2.0),
        bench.ask("high", priority=5, arrived=4.0),
    ]
    await bench.until_waiting(4)
    overs[0].set()
    await asyncio.gather(*asking)
    assert bench.served == ["high", "early", "late", "low"]


async def test_a_queue_that_is_full_refuses_at_once_but_not_what_was_admitted_before(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(max_waiting=2)
    overs = await bench.fill()
    asking = [bench.ask(), bench.ask()]
    await bench.until_waiting(2)
    with pytest.raises(OverloadedError, match="2 requests wait already"):
        await bench.ask()
    asking.append(bench.ask(may_refuse=False))
    await bench.until_waiting(3)
    overs[0].set()
    await asyncio.gather(*asking)


async def test_a_line_of_one_model_holds_nobody_up_of_another(bench: Bench) -> None:
    await bench.fill()
    other = Member(name="generation-1", role="generation", model="n", url="h:3", max_batch_size=1)
    bench.roster.replace("more", [other])
    bench.ask("m")
    await bench.until_waiting(1)
    assert (await bench.ask("n", "n")).generation == other
    first, over = bench.hold("n", "n")
    second, _ = bench.hold("n", "n")
    third = bench.ask("n", "n")
    await bench.until_waiting(2)
    over.set()
    await third
    assert bench.admission.num_waiting == 1
    assert "m" not in bench.served
    assert first.done()
    assert not second.done()


async def test_no_room_in_time_is_a_missed_deadline(bench: Bench) -> None:
    await bench.fill()
    with pytest.raises(DeadlineError, match="room"):
        await bench.ask(due_s=0.1)
    assert bench.admission.num_waiting == 0


async def test_who_never_came_to_the_head_of_its_line_is_told_why_too(bench: Bench) -> None:
    await bench.fill()
    bench.ask("first")
    await bench.until_waiting(1)
    with pytest.raises(DeadlineError, match="room"):
        await bench.ask("second", due_s=0.2)


async def test_one_that_leaves_the_head_of_a_line_lets_the_next_go(bench: Bench) -> None:
    small = Member(name="generation-0", role="generation", model="m", url="h:2", num_blocks=10, tokens_per_block=10)
    bench.roster.replace("agent", [small])
    bench.hold("first", tokens=150)
    await bench.until_served(1)
    large, _ = bench.hold("large", tokens=60)
    await bench.until_waiting(1)
    fits = bench.hold("fits", tokens=50)[0]
    await bench.until_waiting(2)
    large.cancel()
    await bench.until_served(2)
    assert bench.served == ["first", "fits"]
    assert not fits.done()


async def test_a_smaller_one_of_a_higher_priority_goes_before_one_that_does_not_fit(bench: Bench) -> None:
    small = Member(name="generation-0", role="generation", model="m", url="h:2", num_blocks=10, tokens_per_block=10)
    bench.roster.replace("agent", [small])
    bench.hold("first", tokens=150)
    await bench.until_served(1)
    bench.hold("large", tokens=60)
    await bench.until_waiting(1)
    bench.hold("urgent", tokens=50, priority=1)
    await bench.until_served(2)
    assert bench.served == ["first", "urgent"]


async def test_room_given_to_one_that_leaves_in_the_same_moment_goes_to_the_next(bench: Bench) -> None:
    overs = await bench.fill()
    leaving, next_ = bench.ask("leaving"), bench.ask("next")
    await bench.until_waiting(2)
    overs[0].set()
    while bench.admission.num_waiting == 2:
        await asyncio.sleep(0)
    leaving.cancel()
    await next_
    assert bench.admission.num_waiting == 0


async def test_a_new_server_is_room(bench: Bench) -> None:
    await bench.fill()
    asking = [bench.hold()[0] for _ in range(ROOM + 1)]
    await bench.until_waiting(ROOM + 1)
    bench.roster.replace(
        "more", [Member(name="generation-1", role="generation", model="m", url="h:3", max_batch_size=4)]
    )
    await bench.until_served(ROOM)
    assert bench.admission.num_waiting == 1
    assert sum(task.done() for task in asking) == 0


async def test_begun_answers_wait_for_no_room_and_are_not_counted(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_waiting=1)
    await bench.fill()
    bench.ask()
    await bench.until_waiting(1)
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    begun = bench.ask("begun", has_begun=True)
    await bench.until_waiting(2)
    bench.roster.replace("agent", [CONTEXT, Member(name="generation-1", role="generation", model="m", url="h:4")])
    await begun


async def test_room_that_other_processes_make_is_found(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(has_others=True)
    away = True

    def choose_when_there(_: Snapshot) -> Route | None:
        return None if away else BOTH

    due = bench.loop.time() + 20
    asking = asyncio.create_task(bench.admission.admit(choose_when_there, model="m", due=due))
    await bench.until_waiting(1)
    away = False
    assert await asking == BOTH
