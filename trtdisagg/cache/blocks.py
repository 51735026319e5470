"""Which blocks of the KV pool are free, how many owners each used block has, and which content is kept for later.

Blocks are numbers here: what they hold and where they lie is the pool's business. A block table, the list of blocks
that holds one request's KV in token order, belongs to its request; each place in a table is one owner of its block.

    used       owned by one table; by several: shared
    cached     owned by none, but its content is known and may be wanted: taken when no other is left, the one that was
               used longest ago first
    free       a stack: the block freed last is taken next, its memory is the warmest
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from trtdisagg.cache.events import BlockEvents
from trtdisagg.cache.reuse import Entry, PrefixIndex


class BlockManager:
    """Allocates whole blocks, all or nothing. Not thread-safe: the engine loop owns it.

    :param num_blocks: blocks in the pool, numbered from 0.
    :param tokens_per_block: KV positions in one block.
    :param events: told what can be found; None: nobody is.
    """

    def __init__(self, num_blocks: int, tokens_per_block: int, events: BlockEvents | None = None) -> None:
        assert num_blocks > 0
        assert tokens_per_block > 0
        self.num_blocks = num_blocks
        self.tokens_per_block = tokens_per_block
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Least recently used first; a child always before its parent."""
        self._num_owners = [0] * num_blocks
        self.index = PrefixIndex(tokens_per_block, events or BlockEvents(0))

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: the cached ones too."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def num_blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold the KV of this many tokens."""
        return -(-num_tokens // self.tokens_per_block)

    def num_unowned(self, blocks: Iterable[int]) -> int:
        """How many of these would be free no more if they were shared."""
        return sum(not self._num_owners[block] for block in blocks)

    def is_shared(self, block: int) -> bool:
        return self._num_owners[block] > 1

    def allocate(self, num: int) -> list[int]:
        """Take this many blocks, with one owner each. The caller knows that there are so many."""
        assert num <= self.num_free, f"{num} blocks wanted, {self.num_free} free"
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(num)]
        for block in blocks:
            self._num_owners[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add one owner to each block."""
        for block in blocks:
            if not self._num_owners[block]:
                assert block in self._cached, f"block {block} is free and cannot be shared"
                del self._cached[block]
            self._num_owners[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Take one owner from each block; those without any are free again, or cached.

        table       [ 7  3  5 ]     freed from the end, so that a prefix that is shared, or wanted
        owners        2  2  1       again soon, is the last to be given to others
        afterwards    1  1  0  -> 5 is free
        """
        for block in reversed(blocks):
            assert self._num_owners[block] > 0, f"block {block} is freed twice"
            self._num_owners[block] -= 1
            if self._num_owners[block]:
                continue
            if block in self.index:
                self._cached[block] = None
            else:
                self._free.append(block)

    def publish(self, table: list[int], entry: Entry) -> None:
        """Others may find the block at the entry's place of a table: it is computed, and not written to any more.

        Where its content is known already, the table goes on with the block that has it.
        """
        place = entry.place
        mine, known = table[place], self.index.block(entry.hash)
        if known is None:
            if place == 0 or table[place - 1] in self.index:
                self.index.add(mine, entry)
        elif known != mine:
            self.share([known])
            table[place] = known
            self.free([mine])

    def forget_all(self) -> None:
        """Nothing that was computed is found any more; those who have it go on with it."""
        self.index.clear()
        self._free += self._cached
        self._cached.clear()

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self.index.remove(block)
        return block

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the used blocks are exactly those in `tables`, and the free and cached ones all the others.

        :param tables: every block table that is alive.
        """
        owners = Counter(block for table in tables for block in table)
        for block, num in enumerate(self._num_owners):
            assert num == owners[block], f"block {block} counts {num} owners and has {owners[block]}"
        assert all(0 <= block < self.num_blocks for block in owners), "a table names a block that is not there"
        free, unowned = set(self._free), {block for block, num in enumerate(self._num_owners) if not num}
        assert len(free) == len(self._free), "a block is free twice"
        assert free | self._cached.keys() == unowned, "free blocks are miscounted"
        assert not free & self._cached.keys(), "a block is free and cached"
        assert {b for b in unowned if b in self.index} == self._cached.keys(), "what is cached cannot be found"
        self.index.check_integrity()
