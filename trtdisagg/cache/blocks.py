"""Which blocks of the KV pool are free, and how many owners each used block has.

Blocks are numbers here: what they hold and where they lie is the pool's business. A block table, the list of blocks
that holds one request's KV in token order, belongs to its request; each place in a table is one owner of its block.

    free       a stack: the block freed last is taken next, its memory is the warmest
    _num_owners    per block: 0 free, 1 owned by one table, more: shared
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class BlockManager:
    """Allocates whole blocks, all or nothing. Not thread-safe: the engine loop owns it.

    :param num_blocks: blocks in the pool, numbered from 0.
    :param tokens_per_block: KV positions in one block.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int) -> None:
        assert num_blocks > 0
        assert tokens_per_block > 0
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_owners = [0] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def num_blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold the KV of this many tokens."""
        return -(-num_tokens // self.tokens_per_block)

    def can_allocate(self, num_tokens: int) -> bool:
        return self.num_blocks_for(num_tokens) <= len(self._free)

    def allocate(self, num_tokens: int) -> list[int]:
        """Take blocks for this many tokens, with one owner each.

        The caller has asked `can_allocate` before.
        """
        num = self.num_blocks_for(num_tokens)
        assert num <= len(self._free), f"{num} blocks wanted, {len(self._free)} free"
        blocks = [self._free.pop() for _ in range(num)]
        for block in blocks:
            self._num_owners[block] = 1
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Add one owner to each block."""
        for block in blocks:
            assert self._num_owners[block] > 0, f"block {block} is free and cannot be shared"
            self._num_owners[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Take one owner from each block; those without any are free again.

        table       [ 7  3  5 ]     freed from the end, so that a prefix that is shared, or wanted
        owners        2  2  1       again soon, is the last to be given to others
        afterwards    1  1  0  -> 5 is free
        """
        for block in reversed(blocks):
            assert self._num_owners[block] > 0, f"block {block} is freed twice"
            self._num_owners[block] -= 1
            if not self._num_owners[block]:
                self._free.append(block)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the used blocks are exactly those in `tables`, and the free ones all the others.

        :param tables: every block table that is alive.
        """
        owners = Counter(block for table in tables for block in table)
        for block, num in enumerate(self._num_owners):
            assert num == owners[block], f"block {block} counts {num} owners and has {owners[block]}"
        assert all(0 <= block < self.num_blocks for block in owners), "a table names a block that is not there"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert free == {block for block, num in enumerate(self._num_owners) if not num}, "free blocks are miscounted"
