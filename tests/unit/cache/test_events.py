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
    events.stored(b"", b"\x01", [5])
    events.removed(b"\x01")
    assert events.take() == []


def test_who_listens_is_told_what_there_is_and_then_what_has_become_of_it() -> None:
    events, told, late = BlockEvents(0), [], []
    events.stored(b"", b"\x01", [])
    events.stored(b"", b"\x02", [])
    events.listen(lambda *change: told.append(change))
    assert told == [(b"\x01\x02", b"")]
    events.tell()
    assert len(told) == 1
    events.stored(b"", b"\x03", [])
    events.stored(b"", b"\x04", [])
    events.removed(b"\x03")
    events.removed(b"\x01")
    events.listen(lambda *change: late.append(change))
    events.tell()
    assert told[1] == late[1] == (b"\x04", b"\x03\x01")
    assert late[0] == (b"\x02\x04", b"")
    events.created(5)
    events.stored(b"", b"\x04", [])
    events.tell()
    assert told[2] == (b"\x04", b"\x02")


def test_who_has_left_is_told_nothing_and_nothing_is_kept_for_nobody() -> None:
    events, told = BlockEvents(0), []
    listeners = [lambda *_, i=i: told.append(i) for i in range(2)]
    for listener in listeners:
        events.listen(listener)
    events.forget(listeners[0])
    events.forget(listeners[0])
    events.stored(b"", b"\x01", [])
    events.tell()
    assert told == [0, 1, 1]
    events.stored(b"", b"\x02", [])
    events.forget(listeners[1])
    events.listen(listeners[0])
    events.tell()
    assert told == [0, 1, 1, 0]


def test_the_form_is_upstreams() -> None:
    event = KvEvent(event_id=3, data=Stored(parent_hash="01", blocks=[StoredBlock(block_hash="02", tokens=[5])]))
    block = {"type": "stored_block", "block_hash": "02", "tokens": [5], "cache_level": 0}
    assert msgspec.to_builtins(event) == {
        "event_id": 3,
        "data": {"type": "stored", "parent_hash": "01", "blocks": [block]},
    }
    assert msgspec.convert(msgspec.to_builtins(event), KvEvent) == event
