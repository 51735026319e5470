"""Requests that wait for a server: which wait, for how long, and what wakes them."""

from __future__ import annotations

import asyncio

import pytest

from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy import waiting as waiting_module
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.route import Route, choose
from trtdisagg.proxy.waiting import Waiting
from trtdisagg.registry.members import Roster, Snapshot

pytestmark = pytest.mark.anyio

CONTEXT = Member(name="context-0", role="context", model="m", url="h:1")
GENERATION = Member(name="generation-0", role="generation", model="m", url="h:2")


def choose_any(snapshot: Snapshot) -> Route:
    return choose(snapshot, "m", 0)


class Bench:
    """A roster, and requests that want a server of it."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.waiting = Waiting(self.roster, Deadlines())

    def ask(self, due_s: float = 20.0) -> asyncio.Task[Route]:
        due = asyncio.get_running_loop().time() + due_s
        return asyncio.create_task(self.waiting.choose(choose_any, model="m", due=due))

    async def until_waiting(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.waiting.num_waiting != number:
                await asyncio.sleep(0)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_who_finds_a_server_does_not_wait(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT, GENERATION])
    assert await bench.ask() == Route(CONTEXT, GENERATION)


async def test_nothing_comes_nobody_waits(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT], coming={"m": ["context"], "other": ["generation"]})
    with pytest.raises(UnavailableError):
        await bench.ask()


async def test_all_who_wait_are_served_in_the_order_they_came(bench: Bench) -> None:
    bench.roster.replace("agent", [CONTEXT], coming={"m": ["generation"]})
    served: list[int] = []
    asking = [bench.ask() for _ in range(5)]
    for i, task in enumerate(asking):
        task.add_done_callback(lambda _, i=i: served.append(i))  # type: ignore[misc]
    await bench.until_waiting(5)
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    await bench.until_waiting(5)
    bench.roster.replace("agent", [CONTEXT, GENERATION])
    assert await asyncio.gather(*asking) == [Route(CONTEXT, GENERATION)] * 5
    assert served == [0, 1, 2, 3, 4]
    assert bench.waiting.num_waiting == 0


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
    assert bench.waiting.num_waiting == 0


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

    monkeypatch.setattr(waiting_module, "SETTLE_S", 0.1)
    bench.roster.doubt(again)
    with pytest.raises(UnavailableError):
        await bench.ask()


async def test_one_that_leaves_waits_no_more(bench: Bench) -> None:
    bench.roster.replace("agent", [], coming={"m": ["generation"]})
    asking = bench.ask()
    await bench.until_waiting(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert bench.waiting.num_waiting == 0
