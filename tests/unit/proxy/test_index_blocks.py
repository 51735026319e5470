"""What of a prompt a server has."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.proxy.index import blocks as blocks_module
from trtdisagg.proxy.index.blocks import Blocks
from trtdisagg.text.block_hash import extend_chain, keys, root_hash

CHAIN = [10, 11, 12, 13, 14]


def having(*known: int) -> Blocks:
    blocks = Blocks(("m", 32))
    blocks.add(known)
    return blocks


def test_a_beginning_ends_where_the_first_block_is_missing() -> None:
    assert having().num_found(CHAIN, 0) == 0
    assert having(10, 11).num_found(CHAIN, 0) == 2
    assert having(10, 11, 13, 14).num_found(CHAIN, 0) == 2
    assert having(11, 12, 13, 14).num_found(CHAIN, 0) == 0
    assert having(*CHAIN, 99).num_found(CHAIN, 0) == 5
    assert having(*CHAIN).num_found([], 0) == 0


def test_what_is_expected_counts_for_a_while() -> None:
    blocks = having(10, 13)
    blocks.expect(CHAIN, now=0, until=10)
    assert [blocks.num_found(CHAIN, now) for now in (0, 9.9, 10)] == [5, 5, 1]
    assert len(blocks) == 2
    blocks.add([11, 12])
    assert blocks.num_found(CHAIN, 10) == 4


def test_what_is_expected_very_often_is_not_kept_as_often() -> None:
    blocks = having()
    for i in range(1000):
        now = i / 50
        blocks.expect(CHAIN, now, until=now + 10)
        assert blocks.num_found(CHAIN, now + 8.9) == 5
    assert sum(len(keys) for _, keys in blocks._expiring) <= 12 * len(CHAIN)


def test_what_is_expected_again_counts_on() -> None:
    blocks = having()
    blocks.expect(CHAIN[:3], now=0, until=10)
    blocks.expect(CHAIN, now=5, until=15)
    blocks.expect([99], now=12, until=22)
    assert [blocks.num_found(CHAIN, now) for now in (14, 15)] == [5, 0]
    blocks.expect([98], now=30, until=40)
    assert list(blocks._expected) == [98]


def test_what_is_expected_takes_no_more_than_so_much() -> None:
    limit = blocks_module.MAX_EXPECTED
    blocks = having()
    for start in range(0, 3 * limit, limit // 4):
        blocks.expect(range(start, start + limit // 4), now=0, until=10)
    assert limit <= len(blocks._expected) <= limit + limit // 4
    assert blocks.num_found(range(3 * limit - limit // 4, 3 * limit), 1) == limit // 4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))), st.permutations(range(10)))
def test_it_is_the_longest_beginning_of_all_that_was_stored_and_not_removed(
    changes: list[tuple[set[int], set[int]]], chain: list[int]
) -> None:
    blocks, there = having(), set[int]()
    for removed, stored in changes:
        blocks.remove(removed)
        blocks.add(stored)
        there = (there - removed) | stored
    found = blocks.num_found(chain, 0)
    assert set(chain[:found]) <= there
    assert found == len(chain) or chain[found] not in there


def test_keys_are_the_beginnings_of_hashes() -> None:
    chain: list[bytes] = []
    extend_chain(chain, root_hash("m"), random.Random(0).choices(range(1000), k=64), 4, 64)
    found = list(keys(b"".join(chain)))
    assert found == [int.from_bytes(h[:8], "little") for h in chain]
    assert len(set(found)) == 16
