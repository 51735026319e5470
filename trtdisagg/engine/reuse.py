"""What of a sequence's KV is in some block already, and what others may find of it.

    tokens     | block | block | block | blo           the longest beginning that is known is shared, block by block;
    found      | share | share | copy|                 of the next block the beginning is copied, where it is alike

At least the last token is always computed: its logits are the next token's.
"""

from __future__ import annotations

from typing import NamedTuple

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.cache.reuse import Beginning, Entry
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.sequence import Sequence
from trtdisagg.text.block_hash import block_hash, extend_chain, root_hash


class Match(NamedTuple):
    """What was found for a sequence."""

    blocks: list[int]
    """Hold its first tokens, and are full."""
    beginning: Beginning | None = None
    """Of the block behind them."""
    num_tokens: int = 0
    """In both together."""


NOTHING = Match([])


class Reuse:
    """Knows hashes; who owns blocks is the manager's."""

    def __init__(self, limits: Limits, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._is_on = limits.enable_block_reuse
        self._is_partial = limits.enable_partial_reuse
        self._tokens_per_block = limits.tokens_per_block
        self._model = limits.model
        self._root = root_hash(limits.model)

    def match(self, sequence: Sequence) -> Match:
        """The longest beginning of its tokens, without the last of them, that is in the pool."""
        if not self._is_on or sequence.readings is not None:  # of what is not computed there are no logits
            return NOTHING
        n, end = self._tokens_per_block, len(sequence.tokens) - 1
        self._extend(sequence, end)
        blocks = self._blocks.index.find(sequence.chain[: end // n])
        num_tokens = len(blocks) * n
        beginning = self._beginning(sequence, len(blocks), end) if self._is_partial and num_tokens < end else None
        return Match(blocks, beginning, num_tokens + (beginning.num_tokens if beginning else 0))

    def _beginning(self, sequence: Sequence, place: int, end: int) -> Beginning | None:
        start = place * self._tokens_per_block
        wanted = sequence.tokens[start : min(start + self._tokens_per_block, end)]
        return self._blocks.index.find_beginning(self._parent(sequence, place), wanted)

    def publish(self, sequence: Sequence) -> None:
        """Let others find its blocks that have become full."""
        if not self._is_on:
            return
        n = self._tokens_per_block
        self._extend(sequence, sequence.num_computed)
        for place in range(sequence.num_published, sequence.num_computed // n):
            tokens = sequence.tokens[place * n : (place + 1) * n]
            entry = Entry(place, self._parent(sequence, place), sequence.chain[place], tokens)
            self._blocks.publish(sequence.blocks, entry)
        sequence.num_published = sequence.num_computed // n

    def publish_rest(self, sequence: Sequence) -> None:
        """It has ended: let others find its last block, too, though it is not full."""
        place = sequence.num_computed // self._tokens_per_block
        tokens = sequence.tokens[place * self._tokens_per_block : sequence.num_computed]
        if not (self._is_on and self._is_partial and tokens):
            return
        assert sequence.num_published == place, f"request {sequence.id} did not publish a full block"
        if self._blocks.is_shared(sequence.blocks[place]):  # by a copy that has yet to be made: from it, or into it
            return
        parent = self._parent(sequence, place)
        self._blocks.publish(sequence.blocks, Entry(place, parent, block_hash(parent, tokens), tokens))

    def _parent(self, sequence: Sequence, place: int) -> bytes:
        return sequence.chain[place - 1] if place else sequence.root

    def _extend(self, sequence: Sequence, end: int) -> None:
        if not sequence.root:
            salt = sequence.request.cache_salt
            sequence.root = self._root if salt is None else root_hash(self._model, salt)
        extend_chain(sequence.chain, sequence.root, sequence.tokens, self._tokens_per_block, end)
