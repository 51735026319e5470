"""Other servers are met when there is a transceiver, whenever the agent says so."""

from __future__ import annotations

import asyncio

import pytest

from trtdisagg.engine.meetings import Meetings
from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import PeerAddress

pytestmark = pytest.mark.anyio


class FakeExchange:
    """Meets nobody before the test says so."""

    host, port = "127.0.0.1", 7

    def __init__(self) -> None:
        self.may_meet = asyncio.Event()
        self.met: list[str] = []
        self.ended: list[str] = []

    async def meet(self, address: PeerAddress) -> Linked:
        await self.may_meet.wait()
        self.met.append(address.incarnation)
        return Linked(server=address.server, incarnation=address.incarnation)

    def gone(self, incarnation: str) -> None:
        self.ended.append(incarnation)


def peer(incarnation: str) -> PeerAddress:
    return PeerAddress(server="context-0", incarnation=incarnation, host="h", port=1)


async def test_who_is_named_early_is_met_when_there_is_a_transceiver() -> None:
    reports: asyncio.Queue[Linked] = asyncio.Queue()
    meetings, exchange = Meetings(reports.put_nowait), FakeExchange()
    exchange.may_meet.set()
    for incarnation in ("a", "b", "a"):
        meetings.meet(peer(incarnation))
    meetings.gone("b")
    async with meetings.open(exchange):
        assert (await asyncio.wait_for(reports.get(), 60)).incarnation == "a"
        meetings.meet(peer("c"))
        assert (await asyncio.wait_for(reports.get(), 60)).incarnation == "c"
        meetings.gone("c")
    assert (exchange.met, exchange.ended) == (["a", "c"], ["c"])
    assert reports.empty()


async def test_a_meeting_that_lasts_holds_up_nothing() -> None:
    reports: list[Linked] = []
    meetings, exchange = Meetings(reports.append), FakeExchange()
    async with asyncio.timeout(60), meetings.open(exchange):
        meetings.meet(peer("a"))
        await asyncio.sleep(0)
    assert reports == []
    meetings.gone("a")
    assert exchange.ended == []  # it is closed


async def test_a_server_without_transports_says_that_it_cannot() -> None:
    reports: asyncio.Queue[Linked] = asyncio.Queue()
    meetings = Meetings(reports.put_nowait)
    async with meetings.open(None):
        meetings.meet(peer("a"))
        linked = await asyncio.wait_for(reports.get(), 60)
        assert "cache_transceiver_config.backend" in (linked.error or "")
