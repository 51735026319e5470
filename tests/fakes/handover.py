"""A handover whose transfers happen when the test says so, between engines of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.interfaces import OnFetched
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket


@dataclass
class Held:
    blocks: list[int]
    num_tokens: int
    on_released: Callable[[], None]


@dataclass
class Fetch:
    ticket: Ticket
    blocks: list[int]
    on_fetched: OnFetched
    dp_rank: int


class Follower(NamedTuple):
    announced: Callable[[Announcement], None]
    retracted: Callable[[AnnouncementKey], None]


@dataclass
class Told:
    """What was announced to `reader` so far."""

    reader: str
    dp_rank: int
    cache_salt: str | None
    tokens: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


class FakeHandover:
    """Records what the engine asks for. Each claim must end with a fetch or be forgotten; `open_claims` are neither."""

    def __init__(self, late_blocks: Callable[[], set[int]] = set) -> None:
        """
        :param late_blocks: those that may still be written to from elsewhere, so not by a fetch.
        """
        self._late_blocks = late_blocks
        self.held: dict[int, Held] = {}
        self.open_claims: dict[int, Ticket] = {}
        self.fetches: dict[int, Fetch] = {}
        self.ended_fetches: set[int] = set()
        self.forgotten: list[int] = []
        self.has_begun = threading.Event()
        """A fetch has begun."""
        self.is_refusing = False
        self.readers: set[str] = set()
        """Generation servers that are connected."""
        self.told: dict[int, Told] = {}
        """What is announced and was not retracted."""
        self.num_announced = 0
        self.follower: Follower | None = None
        self.prefetches: dict[AnnouncementKey, Fetch] = {}

    def hold(self, offer: Offer) -> Ticket:
        if self.is_refusing:
            raise HandoverError("not now")
        assert offer.request_id not in self.held
        blocks = list(offer.blocks)
        self.held[offer.request_id] = Held(blocks, offer.num_tokens, offer.on_released)
        return ticket(offer.request_id, offer.num_tokens, blocks, offer.dp_rank)

    def withdraw(self, ticket: Ticket) -> None:
        if ticket.request_id in self.held:
            self.release(ticket.request_id)

    def claim(self, request_id: int, ticket: Ticket) -> None:
        assert request_id not in self.open_claims
        assert request_id not in self.fetches
        self.open_claims[request_id] = ticket

    def fetch(self, request_id: int, blocks: list[int], on_fetched: OnFetched, dp_rank: int = 0) -> None:
        assert not self._late_blocks().intersection(blocks)
        self.fetches[request_id] = Fetch(self.open_claims.pop(request_id), list(blocks), on_fetched, dp_rank)
        self.has_begun.set()

    def forget(self, request_id: int) -> None:
        known = [c for c in (self.open_claims, self.fetches, self.ended_fetches) if request_id in c]
        assert len(known) == 1
        self.open_claims.pop(request_id, None)
        self.forgotten.append(request_id)

    def announce(self, reader: str, dp_rank: int, cache_salt: str | None) -> int | None:
        if reader not in self.readers:
            return None
        self.num_announced += 1
        self.told[self.num_announced] = Told(reader, dp_rank, cache_salt)
        return self.num_announced

    def tell(self, announcement: int, tokens: list[int], blocks: list[int]) -> None:
        assert tokens
        self.told[announcement].tokens += tokens
        self.told[announcement].blocks += blocks

    def retract(self, announcement: int) -> None:
        del self.told[announcement]

    def follow(self, announced: Callable[[Announcement], None], retracted: Callable[[AnnouncementKey], None]) -> None:
        self.follower = Follower(announced, retracted)

    def prefetch(
        self, announcement: Announcement, blocks: list[int], dp_rank: int, on_prefetched: Callable[[str | None], None]
    ) -> None:
        assert not self._late_blocks().intersection(blocks)
        assert announcement.key not in self.prefetches
        self.prefetches[announcement.key] = Fetch(announcement.ticket, list(blocks), on_prefetched, dp_rank)

    def release(self, request_id: int) -> None:
        """What happens when the blocks were fetched, or their lease ended."""
        self.held.pop(request_id).on_released()

    def end_fetch(self, request_id: int, error: str | None = None, transfer: Transfer | None = None) -> None:
        self.ended_fetches.add(request_id)
        self.fetches.pop(request_id).on_fetched(error, transfer)


def ticket(request_id: int, num_tokens: int, blocks: list[int], dp_rank: int = 0) -> Ticket:
    return Ticket(
        server="context-0",
        incarnation="i",
        host="127.0.0.1",
        port=1,
        request_id=request_id,
        num_tokens=num_tokens,
        blocks=list(blocks),
        lease_ms=30_000,
        dp_rank=dp_rank,
    )
