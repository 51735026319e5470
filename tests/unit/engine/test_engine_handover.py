"""The engine's thread asks, the event loop does, and every fetch is answered exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from fakes.handover import ticket

from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.handover import TransceiverHandover
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket

pytestmark = pytest.mark.anyio

TICKET = ticket(7, 5, [1])


class FakeClaim:
    """A claim whose fetch lasts until the test says so."""

    def __init__(self) -> None:
        self.blocks: Sequence[int] | None = None
        self.fetching = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self.error: Exception | None = None
        self.is_released = False
        self.was_cut_short = False

    async def fetch(self, blocks: Sequence[int], dp_rank: int) -> Transfer:
        self.blocks = blocks
        self.fetching.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cut_short = True
            await self.may_settle.wait()
            raise
        if self.error:
            raise self.error
        return Transfer(1.0, 2.0, num_bytes=3)

    def release(self) -> None:
        self.is_released = True


class FakeTransceiver:
    def __init__(self) -> None:
        self.claim_made = FakeClaim()
        self.may_claim = asyncio.Event()
        self.may_claim.set()
        self.claiming = asyncio.Event()
        self.released: list[Ticket] = []
        self.error: Exception | None = None

    async def claim(self, ticket: Ticket) -> FakeClaim:
        assert ticket is TICKET
        self.claiming.set()
        await self.may_claim.wait()
        if self.error:
            raise self.error
        return self.claim_made

    def release(self, ticket: Ticket) -> None:
        self.released.append(ticket)


class Told:
    """What the engine was told about a fetch."""

    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self.is_told = asyncio.Event()

    def __call__(self, error: str | None, transfer: Transfer | None = None) -> None:
        assert (error is None) == (transfer is not None)
        self.errors.append(error)
        self.is_told.set()

    async def error(self) -> str | None:
        await asyncio.wait_for(self.is_told.wait(), 60)
        assert len(self.errors) == 1
        return self.errors[0]


@asynccontextmanager
async def open_handover() -> AsyncIterator[tuple[FakeTransceiver, TransceiverHandover, Told]]:
    transceiver, told = FakeTransceiver(), Told()
    async with TransceiverHandover(transceiver) as handover:  # type: ignore[arg-type]
        yield transceiver, handover, told
    assert not handover._errands
    assert len(told.errors) <= 1


async def test_claim_then_fetch() -> None:
    async with open_handover() as (transceiver, handover, told):
        handover.claim(1, TICKET)
        await transceiver.claiming.wait()
        handover.fetch(1, [4, 5], told)
        await transceiver.claim_made.fetching.wait()
        assert transceiver.claim_made.blocks == [4, 5]
        transceiver.claim_made.may_end.set()
        assert await told.error() is None


async def test_a_fetch_forgotten_before_it_began_gives_the_claim_back() -> None:
    async with open_handover() as (transceiver, handover, told):
        handover.claim(1, TICKET)
        await transceiver.claiming.wait()
        await asyncio.sleep(0)  # the claim is made
        handover.fetch(1, [4], told)
        await asyncio.sleep(0)  # the errand is told, and goes on just before it is to forget
        handover.forget(1)
        assert await told.error() is not None
        assert transceiver.claim_made.blocks is None
        assert transceiver.claim_made.is_released


async def test_fetch_that_fails_is_told() -> None:
    async with open_handover() as (transceiver, handover, told):
        transceiver.claim_made.error = HandoverError("lost")
        transceiver.claim_made.may_end.set()
        handover.claim(1, TICKET)
        handover.fetch(1, [4], told)
        assert await told.error() == "lost"


async def test_fetch_that_is_forgotten_is_told_when_nothing_is_written_any_more() -> None:
    async with open_handover() as (transceiver, handover, told):
        claim = transceiver.claim_made
        claim.may_settle.clear()
        handover.claim(1, TICKET)
        handover.fetch(1, [4], told)
        await claim.fetching.wait()
        handover.forget(1)
        handover.forget(1)  # must not hurry it
        await asyncio.sleep(0)
        assert not told.errors
        claim.may_settle.set()
        assert await told.error() == "it is no longer wanted"


async def test_claim_that_fails_is_told_to_the_fetch() -> None:
    async with open_handover() as (transceiver, handover, told):
        transceiver.error = HandoverError("cannot be reached")
        handover.claim(1, TICKET)
        handover.fetch(1, [4], told)
        assert await told.error() == "cannot be reached"
        handover.forget(1)  # comes late


async def test_forgotten_before_the_fetch_is_given_back() -> None:
    async with open_handover() as (transceiver, handover, told):
        handover.claim(1, TICKET)
        await transceiver.claiming.wait()
        handover.forget(1)
    assert transceiver.claim_made.is_released
    assert not told.errors


async def test_forgotten_while_it_connects() -> None:
    async with open_handover() as (transceiver, handover, told):
        transceiver.may_claim.clear()
        handover.claim(1, TICKET)
        await transceiver.claiming.wait()
        handover.fetch(1, [4], told)
        handover.forget(1)
        assert "no longer wanted" in str(await told.error())
    assert transceiver.claim_made.blocks is None
    assert transceiver.released == [TICKET]  # or its blocks would be held until the lease ends


async def test_forgotten_while_it_is_fetched_is_cut_short() -> None:
    async with open_handover() as (transceiver, handover, told):
        handover.claim(1, TICKET)
        handover.fetch(1, [4], told)
        await transceiver.claim_made.fetching.wait()
        handover.forget(1)
        assert "no longer wanted" in str(await told.error())
    assert transceiver.claim_made.was_cut_short


async def test_what_is_open_at_the_end_is_given_up() -> None:
    async with open_handover() as (transceiver, handover, told):
        handover.claim(1, TICKET)
        handover.claim(2, TICKET)
        handover.fetch(2, [4], told)
        await transceiver.claim_made.fetching.wait()
    assert transceiver.claim_made.is_released
    assert "no longer wanted" in str(await told.error())


async def test_fault_in_a_fetch_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async with open_handover() as (transceiver, handover, told):
        transceiver.claim_made.error = ZeroDivisionError("oops")
        transceiver.claim_made.may_end.set()
        handover.claim(1, TICKET)
        handover.fetch(1, [4], told)
        assert await told.error() == "ZeroDivisionError: oops"
    assert "Traceback" in caplog.text


async def test_fault_in_a_claim_is_told_to_a_fetch_that_comes_later(caplog: pytest.LogCaptureFixture) -> None:
    async with open_handover() as (transceiver, handover, told):
        transceiver.error = ZeroDivisionError("oops")
        handover.claim(1, TICKET)
        await transceiver.claiming.wait()
        while handover._errands:
            await asyncio.sleep(0)
        handover.fetch(1, [4], told)
        assert "no longer wanted" in str(await told.error())
    assert "oops" in caplog.text
