"""Blocks are given out whole, shared by count, and all come back."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trtdisagg.cache.blocks import BlockManager

NUM_BLOCKS = 6


def test_it_takes_as_many_blocks_as_the_tokens_fill() -> None:
    blocks = BlockManager(num_blocks=10, tokens_per_block=4)
    assert [blocks.num_blocks_for(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert len(blocks.allocate(9)) == 3
    assert (blocks.num_free, blocks.num_used) == (7, 3)


def test_no_block_is_given_out_twice() -> None:
    blocks = BlockManager(num_blocks=8, tokens_per_block=1)
    taken = blocks.allocate(5) + blocks.allocate(3)
    assert sorted(taken) == list(range(8))


def test_it_gives_all_or_nothing() -> None:
    blocks = BlockManager(num_blocks=3, tokens_per_block=4)
    assert blocks.can_allocate(12)
    assert not blocks.can_allocate(13)
    with pytest.raises(AssertionError, match="4 blocks wanted, 3 free"):
        blocks.allocate(13)
    assert blocks.num_free == 3


def test_a_shared_block_is_free_after_its_last_owner() -> None:
    blocks = BlockManager(num_blocks=2, tokens_per_block=4)
    table = blocks.allocate(8)
    blocks.share(table[:1])
    blocks.free(table)
    assert blocks.num_free == 1
    blocks.check_integrity([table[:1]])
    blocks.free(table[:1])
    blocks.check_integrity([])


def test_what_is_free_can_be_neither_freed_nor_shared() -> None:
    blocks = BlockManager(num_blocks=2, tokens_per_block=4)
    table = blocks.allocate(4)
    blocks.free(table)
    with pytest.raises(AssertionError, match="freed twice"):
        blocks.free(table)
    with pytest.raises(AssertionError, match="cannot be shared"):
        blocks.share(table)


@pytest.mark.parametrize("tables", [[], [[0, 1, 2]], [[0, 1], [0]], [[0]], [[0, 1, 99]]])
def test_a_leak_and_a_stray_owner_are_found(tables: list[list[int]]) -> None:
    blocks = BlockManager(num_blocks=4, tokens_per_block=4)
    assert sorted(blocks.allocate(8)) == [0, 1]
    blocks.check_integrity([[0, 1]])
    with pytest.raises(AssertionError, match=r"owners|not there"):
        blocks.check_integrity(tables)


class BlockHistories(RuleBasedStateMachine):
    """Any order of allocate, share and free, against a plain list of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, tokens_per_block=4)
        self.tables: list[list[int]] = []

    @rule(num_tokens=st.integers(1, 4 * (NUM_BLOCKS + 1)))
    def allocate(self, num_tokens: int) -> None:
        if self.blocks.can_allocate(num_tokens):
            self.tables.append(self.blocks.allocate(num_tokens))
        else:
            assert num_tokens > 4 * self.blocks.num_free

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

    @invariant()
    def used_is_what_is_owned(self) -> None:
        self.blocks.check_integrity(self.tables)
        assert self.blocks.num_used == len({b for t in self.tables for b in t})


BlockHistories.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestBlockHistories = BlockHistories.TestCase
