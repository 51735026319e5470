"""Leases with a fake clock."""

from __future__ import annotations

import pytest

from trtdisagg.cache.holds import Holds
from trtdisagg.errors import HandoverError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Ledger:
    """Holds of a few blocks, and the order in which they were released."""

    def __init__(self, *request_ids: int) -> None:
        self.clock = Clock()
        self.holds = Holds(lease_s=10, clock=self.clock)
        self.released: list[int] = []
        for request_id in request_ids:
            self.add(request_id)

    def add(self, request_id: int) -> int:
        return self.holds.add(request_id, request_id, lambda: self.released.append(request_id))


def test_a_hold_ends_with_its_lease_and_once() -> None:
    ledger = Ledger(1)
    ledger.clock.now += 9.9
    assert ledger.holds.end_expired() == []
    ledger.clock.now += 0.1
    assert ledger.holds.end_expired() == [1]
    assert not ledger.holds.end(1)
    assert ledger.holds.end_expired() == []
    ledger.holds.close()
    assert ledger.released == [1]


def test_a_renewal_begins_the_lease_anew() -> None:
    ledger = Ledger(1, 2)
    ledger.clock.now += 9
    ledger.holds.renew([2, 77], holder="peer")
    assert ledger.holds.next_deadline() == 110
    ledger.clock.now += 9
    assert ledger.holds.end_expired() == [1]
    assert ledger.holds.next_deadline() == 119
    assert ledger.holds.end(2)
    assert ledger.released == [1, 2]


def test_what_ended_cannot_be_renewed_back_to_life() -> None:
    ledger = Ledger(1)
    ledger.holds.end(1)
    ledger.holds.renew([1], holder="peer")
    assert not ledger.holds.end(1)


def test_a_lost_peer_frees_what_it_claimed_and_no_more() -> None:
    ledger = Ledger(1, 2, 3)
    one, other = object(), object()
    ledger.holds.renew([1, 2], holder=one)
    ledger.holds.renew([2], holder=other)  # the last one that renewed has it
    assert ledger.holds.end_of(one) == [1]
    assert ledger.holds.end_of(one) == []
    assert ledger.released == [1]
    assert ledger.holds.num_blocks == 2 + 3


def test_a_request_held_again_is_another_hold() -> None:
    ledger = Ledger(1)
    ledger.holds.end(1)
    again = ledger.add(1)
    assert again != 1
    assert not ledger.holds.end(1)
    assert ledger.holds.end(again)


def test_nothing_is_held_after_the_end() -> None:
    ledger = Ledger(1, 2)
    ledger.holds.close()
    assert ledger.released == [1, 2]
    assert ledger.holds.next_deadline() is None
    with pytest.raises(HandoverError, match="the server ends"):
        ledger.add(3)
    assert ledger.released == [1, 2]
