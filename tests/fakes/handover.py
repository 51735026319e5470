"""A handover whose transfers happen when the test says so, between engines of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

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

    def hold(
        self,
        request_id: int,
        blocks: list[int],
        num_tokens: int,
        on_released: Callable[[], None],
        dp_rank: int = 0,
        *,
        reader: str | None = None,
    ) -> Ticket:
        if self.is_refusing:
            raise HandoverError("not now")
        assert request_id not in self.held
        self.held[request_id] = Held(list(blocks), num_tokens, on_released)
        return ticket(request_id, num_tokens, blocks, dp_rank)

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
