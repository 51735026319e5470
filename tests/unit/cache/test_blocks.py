"""Blocks are given out whole, shared by count, and all come back; what they hold can be found until room is needed."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.cache.reuse import Entry
from trtdisagg.text.block_hash import block_hash

NUM_BLOCKS = 6
ROOT = b"root"


def entries(tokens: list[int], tokens_per_block: int = 4) -> list[Entry]:
    """What a sequence of these tokens publishes; the last entry may be a leaf."""
    found: list[Entry] = []
    for place, start in enumerate(range(0, len(tokens), tokens_per_block)):
        parent, block = found[-1].hash if found else ROOT, tokens[start : start + tokens_per_block]
        found.append(Entry(place, parent, block_hash(parent, block), block))
    return found


def compute(blocks: BlockManager, tokens: list[int]) -> list[int]:
    """A table that holds these tokens."""
    table = blocks.allocate(blocks.num_blocks_for(len(tokens)))
    for entry in entries(tokens):
        blocks.publish(table, entry)
    return table


def find(blocks: BlockManager, tokens: list[int]) -> list[int]:
    return blocks.index.find(e.hash for e in entries(tokens))


def test_it_takes_as_many_blocks_as_the_tokens_fill() -> None:
    blocks = BlockManager(num_blocks=10, tokens_per_block=4)
    assert [blocks.num_blocks_for(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert len(blocks.allocate(3)) == 3
    assert (blocks.num_free, blocks.num_used) == (7, 3)


def test_no_block_is_given_out_twice() -> None:
    blocks = BlockManager(num_blocks=8, tokens_per_block=1)
    taken = blocks.allocate(5) + blocks.allocate(3)
    assert sorted(taken) == list(range(8))


def test_it_gives_all_or_nothing() -> None:
    blocks = BlockManager(num_blocks=3, tokens_per_block=4)
    with pytest.raises(AssertionError, match="4 blocks wanted, 3 free"):
        blocks.allocate(4)
    assert blocks.num_free == 3


def test_a_shared_block_is_free_after_its_last_owner() -> None:
    blocks = BlockManager(num_blocks=2, tokens_per_block=4)
    table = blocks.allocate(2)
    blocks.share(table[:1])
    assert [blocks.is_shared(b) for b in table] == [True, False]
    blocks.free(table)
    assert blocks.num_free == 1
    blocks.check_integrity([table[:1]])
    blocks.free(table[:1])
    blocks.check_integrity([])


def test_what_is_free_can_be_neither_freed_nor_shared() -> None:
    blocks = BlockManager(num_blocks=2, tokens_per_block=4)
    table = blocks.allocate(1)
    blocks.free(table)
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.free(table)
    with pytest.raises(AssertionError, match="cannot be shared"):
        blocks.share(table)


@pytest.mark.parametrize("tables", [[], [[0, 1, 2]], [[0, 1], [0]], [[0]], [[0, 1, 99]]])
def test_a_leak_and_a_stray_owner_are_found(tables: list[list[int]]) -> None:
    blocks = BlockManager(num_blocks=4, tokens_per_block=4)
    assert sorted(blocks.allocate(2)) == [0, 1]
    blocks.check_integrity([[0, 1]])
    with pytest.raises(AssertionError, match=r"owners|not there"):
        blocks.check_integrity(tables)


# --- content --------------------------------------------------------------------------------------------------------


def test_what_was_computed_is_found_by_its_beginning_also_when_nobody_owns_it() -> None:
    blocks = BlockManager(NUM_BLOCKS, tokens_per_block=4)
    table = compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8])
    for _ in range(2):
        assert find(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == table
        assert find(blocks, [1, 2, 3, 4, 5, 6, 7, 0]) == table[:1]
        assert find(blocks, [0, 2, 3, 4, 5, 6, 7, 8]) == []
        if blocks.num_used:
            blocks.free(table)
    assert (blocks.num_free, blocks.num_cached, blocks.num_used) == (NUM_BLOCKS, 2, 0)
    blocks.check_integrity([])


def test_the_block_that_begins_with_most_of_what_is_wanted() -> None:
    blocks = BlockManager(NUM_BLOCKS, tokens_per_block=4)
    one = compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8])
    other = compute(blocks, [1, 2, 3, 4, 5, 6, 9])  # its last is a leaf
    assert other[0] == one[0]  # one block for one content
    parent = entries([1, 2, 3, 4])[0].hash
    assert blocks.index.find_beginning(parent, [5, 6, 7, 0]) == (one[1], 3)
    assert blocks.index.find_beginning(parent, [5, 6, 9, 9]) == (other[1], 3)
    assert blocks.index.find_beginning(parent, [6]) is None
    assert blocks.index.find_beginning(ROOT, [5]) is None
    blocks.check_integrity([one, other])


def test_the_second_to_compute_the_same_goes_on_with_the_firsts_block() -> None:
    blocks = BlockManager(NUM_BLOCKS, tokens_per_block=4)
    one, other = blocks.allocate(2), blocks.allocate(2)
    for table in (one, other):
        for entry in entries([1, 2, 3, 4, 5, 6, 7, 8]):
            blocks.publish(table, entry)
    assert one == other
    assert blocks.num_used == 2
    blocks.check_integrity([one, other])


def test_room_is_made_by_what_was_used_longest_ago_children_before_parents() -> None:
    blocks = BlockManager(4, tokens_per_block=4)
    old, new = compute(blocks, [1, 2, 3, 4, 5, 6, 7, 8]), compute(blocks, [9, 8, 7, 6])
    blocks.free(old)
    blocks.free(new)
    assert blocks.allocate(1) not in ([old[0]], [old[1]], [new[0]])  # one is free still
    assert blocks.allocate(1) == [old[1]]
    assert find(blocks, [1, 2, 3, 4, 5, 6, 7, 8]) == [old[0]]
    blocks.share([old[0]])  # wanted again: used last
    blocks.free([old[0]])
    assert blocks.allocate(1) == [new[0]]
    assert find(blocks, [9, 8, 7, 6]) == []


def test_what_is_not_trusted_is_found_no_more_and_still_used() -> None:
    blocks = BlockManager(NUM_BLOCKS, tokens_per_block=4)
    used, cached = compute(blocks, [1, 2, 3, 4]), compute(blocks, [9, 8, 7, 6])
    blocks.free(cached)
    blocks.forget_all()
    assert find(blocks, [1, 2, 3, 4]) == find(blocks, [9, 8, 7, 6]) == []
    blocks.check_integrity([used])
    used += blocks.allocate(1)
    blocks.publish(used, entries([1, 2, 3, 4, 5, 6, 7, 8])[1])  # behind what is not trusted
    assert blocks.num_cached == 0
    blocks.free(used)
    assert blocks.num_cached == 0
    blocks.check_integrity([])


class BlockHistories(RuleBasedStateMachine):
    """Any order of compute, reuse, share and free, against a plain list of tables and what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, tokens_per_block=2)
        self.tables: list[list[int]] = []
        self.content: dict[int, list[int]] = {}
        """What the pool holds."""

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def compute(self, tokens: list[int]) -> None:
        table = self.blocks.index.find(e.hash for e in entries(tokens, 2) if len(e.tokens) == 2)
        for block, entry in zip(table, entries(tokens, 2), strict=False):
            assert self.content[block] == entry.tokens
        num = self.blocks.num_blocks_for(len(tokens)) - len(table)
        if num + self.blocks.num_unowned(table) > self.blocks.num_free:
            return
        self.blocks.share(table)
        table = table + self.blocks.allocate(num)
        for entry in entries(tokens, 2)[len(table) - num :]:
            self.content[table[entry.place]] = entry.tokens
        for entry in entries(tokens, 2):
            self.blocks.publish(table, entry)
        self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share_a_prefix(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        prefix = table[: data.draw(st.integers(1, len(table)))]
        self.blocks.share(prefix)
        self.tables.append(prefix)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.blocks.free(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @rule()
    def distrust(self) -> None:
        self.blocks.forget_all()

    @invariant()
    def used_is_what_is_owned(self) -> None:
        self.blocks.check_integrity(self.tables)
        assert self.blocks.num_used == len({b for t in self.tables for b in t})


BlockHistories.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestBlockHistories = BlockHistories.TestCase
