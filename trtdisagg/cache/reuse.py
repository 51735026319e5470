"""Which blocks hold which beginning of a text: a tree of blocks by hash, so that nothing is computed twice.

A block is found when everything before it is found, so the parent of each block that is in here is in here, too.
Blocks are numbers, hashes are given; who owns a block, and which one goes when room is needed, is `blocks.py`'s.

    root --- "You are a helpful" --+-- " assistant. Hello," --- " how" (a leaf: not full, its beginning can be copied)
                                   +-- " poet. Write about"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from typing import NamedTuple

from trtdisagg.cache.events import BlockEvents

MAX_COMPARED = 32
"""A thousand conversations may begin alike, and this is asked before each step while somebody waits."""


class Entry(NamedTuple):
    """What is known of a block's content."""

    place: int
    """So many blocks are before it."""
    parent: bytes
    """Hash of all that is before it."""
    hash: bytes
    tokens: list[int]


class Beginning(NamedTuple):
    """A block that begins as wanted."""

    block: int
    num_tokens: int


class PrefixIndex:
    """
    :param tokens_per_block: with fewer, an entry is a leaf.
    :param events: told of full blocks that come and go.
    """

    def __init__(self, tokens_per_block: int, events: BlockEvents) -> None:
        self._tokens_per_block = tokens_per_block
        self._events = events
        self._entries: dict[int, Entry] = {}
        self._blocks: dict[bytes, int] = {}
        self._children: dict[tuple[bytes, int], set[int]] = {}
        """By parent and first token."""

    def __contains__(self, block: int) -> bool:
        return block in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def block(self, block_hash: bytes) -> int | None:
        return self._blocks.get(block_hash)

    def find(self, chain: Iterable[bytes]) -> list[int]:
        """The blocks of the longest beginning of a chain of hashes that is here."""
        return [self._blocks[h] for h in takewhile(self._blocks.__contains__, chain)]

    def find_beginning(self, parent: bytes, tokens: Sequence[int]) -> Beginning | None:
        """A block behind `parent` that has many of these tokens, in order, at its beginning: the most, unless there are
        more than `MAX_COMPARED` that begin alike."""
        children = islice(self._children.get((parent, tokens[0]), ()), MAX_COMPARED)
        found = [Beginning(block, _num_equal(self._entries[block].tokens, tokens)) for block in children]
        return max(found, key=lambda beginning: beginning.num_tokens, default=None)

    def add(self, block: int, entry: Entry) -> None:
        assert block not in self._entries, f"block {block} has two contents"
        assert entry.hash not in self._blocks, f"block {block} is the second with its content"
        self._entries[block] = entry
        self._blocks[entry.hash] = block
        self._children.setdefault((entry.parent, entry.tokens[0]), set()).add(block)
        if len(entry.tokens) == self._tokens_per_block:
            self._events.stored(entry.parent, entry.hash, entry.tokens)

    def remove(self, block: int) -> None:
        """Its content goes; the caller has seen to it that its children went before."""
        entry = self._entries.pop(block)
        del self._blocks[entry.hash]
        siblings = self._children[entry.parent, entry.tokens[0]]
        siblings.remove(block)
        if not siblings:
            del self._children[entry.parent, entry.tokens[0]]
        if len(entry.tokens) == self._tokens_per_block:
            self._events.removed(entry.hash)

    def clear(self) -> None:
        self._entries.clear()
        self._blocks.clear()
        self._children.clear()

    @property
    def full_hashes(self) -> list[bytes]:
        """Of all that is in full blocks."""
        return [entry.hash for entry in self._entries.values() if len(entry.tokens) == self._tokens_per_block]

    def check_integrity(self) -> None:
        """Assert that all three tables say the same, and that every entry can be found."""
        assert self._blocks == {entry.hash: block for block, entry in self._entries.items()}, "hashes are confused"
        assert sum(map(len, self._children.values())) == len(self._entries), "children are lost"
        for block, entry in self._entries.items():
            assert entry.place == 0 or entry.parent in self._blocks, f"block {block} has lost its parent"
        for (parent, first), blocks in self._children.items():
            for block in blocks:
                entry = self._entries[block]
                assert (entry.parent, entry.tokens[0]) == (parent, first), f"block {block} has the wrong parent"


def _num_equal(mine: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two lists begin with alike."""
    for i, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a != b:
            return i
    return min(len(mine), len(theirs))
