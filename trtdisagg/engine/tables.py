"""The block tables of sequences: opened when one is admitted, grown as its tokens come, closed when it leaves.

    open    found blocks are shared, the beginning of the next one is copied, the others are new
    fork    a choice goes on where another has computed the prompt: full blocks are shared, the last one is copied
    close   all go back, and what they hold can be found for as long as there is room

Copies are made with the next step, before anything is computed. Until then they own both their blocks, so that neither
comes into other hands, and all that is before them, so that it is not forgotten before what is behind it.
"""

from __future__ import annotations

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.capacity import capacity_policy
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.reuse import Match, Reuse
from trtdisagg.engine.sequence import Sequence
from trtdisagg.engine.step import Copy


class Tables:
    """Decides who gets how many blocks; which ones is the manager's."""

    def __init__(self, limits: Limits, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._tokens_per_block = limits.tokens_per_block
        self._capacity = capacity_policy(limits)
        self._reuse = Reuse(limits, blocks)
        self._num_reserved = 0
        """Of the free blocks, those that are kept for somebody who is active."""
        self.copies: list[Copy] = []
        """For the next step."""
        self._copied_tables: list[list[int]] = []
        """What copies own."""
        self.num_reused_blocks = 0
        self.num_missed_blocks = 0

    def can_open(self, sequence: Sequence, num_running: int) -> bool:
        """Whether there is room for one more.

        :param num_running: others, who also want to go on.
        """
        return self._room(sequence, num_running * self._capacity.num_spare_each) is not None

    def num_found(self, sequence: Sequence) -> int:
        """Tokens of a newcomer whose KV is here already."""
        return self._reuse.match(sequence).num_tokens

    def can_spare(self, piece: Sequence, num_running: int) -> bool:
        """Whether something of it is missing that is to be fetched, and there is room for it and for those who run."""
        return self.wants_more(piece, self.num_found(piece)) and self._room(piece, num_running) is not None

    def open(self, sequence: Sequence) -> None:
        """Give it blocks for all of its tokens; some of them may be computed already. The caller knows of room."""
        match = self._room(sequence, 0)
        assert match is not None, f"there is no room for request {sequence.id}"
        num_found, num_blocks = len(match.blocks), self._blocks.num_blocks_for(len(sequence.tokens))
        self._blocks.share(match.blocks)  # first, lest they be given away
        if match.beginning:
            self._own_copied([*match.blocks, match.beginning.block])
        sequence.blocks = match.blocks + self._blocks.allocate(num_blocks - num_found)
        if match.beginning:
            self._copy(Copy(match.beginning.block, sequence.blocks[num_found], sequence.dp_rank))
        sequence.num_computed, sequence.num_published = match.num_tokens, num_found
        self.reserve(sequence)
        self._count(sequence, match)

    def reserve(self, sequence: Sequence) -> None:
        """Keep free what the policy promises it."""
        is_open = bool(sequence.blocks)
        num = max(0, self._capacity.num_blocks(sequence) - len(sequence.blocks)) if is_open else 0
        self._num_reserved += num - sequence.num_reserved
        sequence.num_reserved = num

    def wants_more(self, sequence: Sequence, num_found: int) -> bool:
        """Whether the rest of its KV is to be fetched. Where less than a block is missing, that is computed sooner."""
        if sequence.ticket is None:
            return False
        return not num_found or sequence.ticket.num_tokens - num_found >= self._tokens_per_block

    def is_full(self, sequence: Sequence, num_more: int = 0) -> bool:
        """Whether its last token, or one of `num_more` behind it, needs another block."""
        return len(sequence.tokens) + num_more > len(sequence.blocks) * self._tokens_per_block

    def can_grow(self, sequence: Sequence) -> bool:
        return self._blocks.num_free > self._num_reserved - sequence.num_reserved

    def grow(self, sequence: Sequence) -> None:
        sequence.blocks += self._blocks.allocate(1)
        if sequence.num_reserved:
            sequence.num_reserved -= 1
            self._num_reserved -= 1

    def fork(self, leader: Sequence, sibling: Sequence) -> bool:
        """Let a sibling, which has the same tokens, go on with the leader's KV.

        :return: whether there was a block for it.
        """
        num_whole, num_rest = divmod(leader.num_computed, self._tokens_per_block)
        if num_rest and not self.can_grow(leader):
            return False
        shared = leader.blocks[:num_whole]
        self._blocks.share(shared)
        sibling.blocks = shared + self._blocks.allocate(int(num_rest > 0))
        if num_rest:
            self._own_copied(leader.blocks[: num_whole + 1])
            self._copy(Copy(leader.blocks[num_whole], sibling.blocks[num_whole], leader.dp_rank))
        sibling.chain, sibling.root = leader.chain.copy(), leader.root
        sibling.num_computed, sibling.num_published = leader.num_computed, leader.num_published
        sibling.num_cached = leader.num_cached
        self.reserve(leader)
        self.reserve(sibling)
        return True

    def copied(self) -> None:
        """The copies are made, or nobody wants them any more."""
        for table in self._copied_tables:
            self._blocks.free(table)
        self._copied_tables.clear()
        self.copies.clear()

    def filled(self, sequence: Sequence) -> None:
        """More of its KV is computed: others can find its blocks that have become full."""
        if sequence.num_computed >= (sequence.num_published + 1) * self._tokens_per_block:
            self._reuse.publish(sequence)

    def close(self, sequence: Sequence) -> None:
        """Take all of its blocks back."""
        self._reuse.publish_rest(sequence)
        self._blocks.free(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = sequence.num_published = 0
        self.reserve(sequence)

    def distrust(self) -> None:
        """Nothing that was computed so far is reused any more."""
        self._blocks.forget_all()

    def check_integrity(self, sequences: list[Sequence]) -> None:
        """Assert that blocks belong to these sequences and to copies, and that what is kept free is free."""
        self._blocks.check_integrity([*(s.blocks for s in sequences), *self._copied_tables])
        assert self._num_reserved == sum(s.num_reserved for s in sequences), "reserved blocks are miscounted"
        assert self._num_reserved <= self._blocks.num_free, "more is promised than there is"

    def _copy(self, copy: Copy) -> None:
        self._own_copied([copy.target])
        self.copies.append(copy)

    def _own_copied(self, table: list[int]) -> None:
        self._blocks.share(table)
        self._copied_tables.append(table)

    def _room(self, sequence: Sequence, num_spare: int) -> Match | None:
        """What it would begin with, if there is room for it."""
        match = self._match(sequence)
        num_free = self._blocks.num_free - self._num_reserved - num_spare
        # A block that is copied from stays used for a step: one block too many for a sequence that needs them all.
        return next((m for m in (match, self._whole(match)) if self._num_taken(sequence, m) <= num_free), None)

    def _num_taken(self, sequence: Sequence, match: Match) -> int:
        """How many fewer blocks would be free."""
        copied = [match.beginning.block] if match.beginning else []
        num_new = self._capacity.num_blocks(sequence) - len(match.blocks)
        return num_new + self._blocks.num_unowned([*match.blocks, *copied])

    def _match(self, sequence: Sequence) -> Match:
        """What is found of it. Of a block that is fetched, no beginning is copied."""
        match = self._reuse.match(sequence)
        return self._whole(match) if self.wants_more(sequence, match.num_tokens) else match

    def _whole(self, match: Match) -> Match:
        return Match(match.blocks, None, len(match.blocks) * self._tokens_per_block)

    def _count(self, sequence: Sequence, match: Match) -> None:
        """The first time it is admitted: how much of its prompt was there."""
        if sequence.num_cached is None:
            sequence.num_cached = min(match.num_tokens, sequence.num_prompt)
            self.num_reused_blocks += len(match.blocks)
            self.num_missed_blocks += self._blocks.num_blocks_for(sequence.num_prompt) - len(match.blocks)
