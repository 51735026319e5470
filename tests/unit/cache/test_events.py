"""What is said about blocks is what happens to them, in order; the oldest is lost first."""

from __future__ import annotations

import msgspec

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.cache.events import BlockEvents
from trtdisagg.cache.reuse import Entry
from trtdisagg.protocol.kv_events import Created, KvEvent, Removed, Stored, StoredBlock


def entry(place: int, parent: bytes, name: bytes, tokens: list[int]) -> Entry:
    return Entry(place, parent, name, tokens)


def test_a_block_is_stored_when_it_can_be_found_and_removed_when_it_is_taken() -> None:
    events = BlockEvents(10)
    blocks = BlockManager(1, tokens_per_block=2, events=events)
    table = blocks.allocate(1)
    blocks.publish(table, entry(0, b"\x01", b"\x02", [5, 6]))
    blocks.free(table)
    blocks.allocate(1)
    stored = Stored(parent_hash="01", blocks=[StoredBlock(block_hash="02", tokens=[5, 6])])
    assert [e.data for e in events.take()] == [stored, Removed(["02"])]
    assert events.take() == []


def test_nothing_is_said_of_a_block_that_is_not_full() -> None:
    events = BlockEvents(10)
    blocks = BlockManager(1, tokens_per_block=2, events=events)
    table = blocks.allocate(1)
    blocks.publish(table, entry(0, b"\x01", b"\x02", [5]))
    blocks.free(table)
    blocks.allocate(1)
    assert events.take() == []


def test_a_block_of_several_pools_is_there_from_the_first_to_the_last_of_them() -> None:
    events = BlockEvents(10)
    events.created(6)
    pools = [BlockManager(2, tokens_per_block=2, events=events) for _ in range(3)]
    tables = [pool.allocate(1) for pool in pools]
    for pool, table in zip(pools, tables, strict=True):
        pool.publish(table, entry(0, b"\x01", b"\x02", [5, 6]))
        pool.free(table)
    for pool in pools[:2]:
        pool.allocate(2)
    assert [type(e.data) for e in events.take()] == [Created, Stored]
    pools[2].allocate(2)
    assert [e.data for e in events.take()] == [Removed(["02"])]


def test_what_is_created_anew_has_nothing() -> None:
    events = BlockEvents(10)
    events.stored(b"", b"\x02", [5])
    events.created(3)
    events.stored(b"", b"\x02", [5])
    assert [type(e.data) for e in events.take()] == [Stored, Created, Stored]


def test_what_was_lost_shows_as_a_gap() -> None:
    events = BlockEvents(2)
    for i in range(4):
        events.stored(b"", bytes([i]), [])
    assert [e.event_id for e in events.take()] == [2, 3]
    events.stored(b"", b"\x09", [])
    assert [e.event_id for e in events.take()] == [4]


def test_none_are_made_when_none_are_kept() -> None:
    events = BlockEvents(0)
    events.created(3)
    events.removed(b"\x01")
    assert events.take() == []


def test_the_form_is_upstreams() -> None:
    event = KvEvent(event_id=3, data=Stored(parent_hash="01", blocks=[StoredBlock(block_hash="02", tokens=[5])]))
    block = {"type": "stored_block", "block_hash": "02", "tokens": [5], "cache_level": 0}
    assert msgspec.to_builtins(event) == {
        "event_id": 3,
        "data": {"type": "stored", "parent_hash": "01", "blocks": [block]},
    }
    assert msgspec.convert(msgspec.to_builtins(event), KvEvent) == event
