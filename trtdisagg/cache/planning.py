"""What one rank copies from the ranks of another server for a request, as runs of bytes. Pure arithmetic.

What two ranks have in common is a range of layers and a range of heads (`shares`), and where that lies in the blocks of
each is its window (`layout` draws a block). Same `tokens_per_block` on both sides: the heads of a layer are one run of
a block; all heads of both ranks: the layers are one; all layers too: blocks that are neighbours on both sides are.
Different ones: token p lies in other blocks and at other rows, so each piece is copied by itself, in spans of tokens
that lie together on both sides.

It knows block numbers, no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trtdisagg.cache.layout import Ints, Runs, rank_shape, row_bytes
from trtdisagg.cache.shares import Share, check_dp_rank, heads_of, layers_of, shares
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.peers import Part


class Planner:
    """What my rank copies from the ranks of one server, request by request.

    :param mine: our layout.
    :param theirs: checked, and compatible with ours.
    """

    def __init__(self, mine: KvLayout, my_rank: int, theirs: KvLayout) -> None:
        self._mine = mine
        self._theirs = theirs
        self._windows = [
            {
                share.rank: (_Window.of(mine, my_rank, share), _Window.of(theirs, share.rank, share))
                for share in shares(mine, my_rank, theirs, dp_rank)
            }
            for dp_rank in range(theirs.parallel.dp_size)
        ]
        is_whole_blocks = mine.tokens_per_block == theirs.tokens_per_block
        self._runs_per_span = max(
            sum(len(window.layers if is_whole_blocks else window.pieces()) for window, _ in windows.values())
            for windows in self._windows
        )

    def plan(self, part: Part) -> dict[int, Runs]:
        """What to copy so that my blocks hold my rank's share of the request's first tokens.

        Rows of my last block behind the last token may be written too.

        :param part: blocks and tokens of the request; my block table covers the tokens, theirs is checked.
        :return: runs by their rank; offsets count from the beginning of each pool.
        :raises HandoverError: when their blocks do not hold so many tokens or are not in the pool, or there is no such
            `dp_rank`.
        """
        my_blocks, their_blocks = self._checked_tables(part)
        windows = self._windows[part.their_dp_rank]
        my_size, their_size = self._mine.tokens_per_block, self._theirs.tokens_per_block
        if my_size == their_size:
            wanted = np.flatnonzero(my_blocks[: -(-part.num_tokens // my_size)] >= 0)
            my_blocks, their_blocks = my_blocks[wanted], their_blocks[wanted]
            return {rank: _runs_of_blocks(*pair, my_blocks, their_blocks) for rank, pair in windows.items()}
        spans = _spans(my_size, my_blocks, their_size, their_blocks, part.num_tokens)
        return {rank: _runs_of_spans(*pair, spans) for rank, pair in windows.items()}

    def num_runs_at_most(self, part: Part) -> int:
        """How much work it is to plan this request: about 20 ns for each run."""
        return (len(part.my_blocks) + len(part.their_blocks)) * self._runs_per_span

    def _checked_tables(self, part: Part) -> tuple[Ints, Ints]:
        my_blocks, their_blocks = np.asarray(part.my_blocks, np.int64), np.asarray(part.their_blocks, np.int64)
        assert part.num_tokens <= len(my_blocks) * self._mine.tokens_per_block
        if part.num_tokens > len(their_blocks) * self._theirs.tokens_per_block:
            raise HandoverError(
                f"{part.num_tokens} tokens do not fit into the {len(their_blocks)} blocks of the ticket"
            )
        if len(their_blocks) and not 0 <= their_blocks.min() <= their_blocks.max() < self._theirs.num_blocks:
            raise HandoverError("the ticket names blocks outside the pool")
        check_dp_rank(self._theirs, part.their_dp_rank)
        return my_blocks, their_blocks


# --- a share of layers and heads within the blocks of one rank ------------------------------------------------------


class _Window(NamedTuple):
    """Where a share lies in each block of a pool, in bytes."""

    block_bytes: int
    layer_bytes: int
    """From one layer to the next, all heads of the rank."""
    head_bytes: int
    row_bytes: int
    layers: Ints
    """[num_layers of the share]: where its heads of each layer begin in a block."""
    num_heads: int
    """Of the share."""

    @classmethod
    def of(cls, layout: KvLayout, rank: int, share: Share) -> _Window:
        shape = rank_shape(layout, rank)
        head_bytes = 2 * shape.tokens_per_block * row_bytes(shape)
        layer_bytes = shape.num_kv_heads * head_bytes
        in_layer = (share.heads.start - heads_of(layout, rank).start) * head_bytes
        layers = np.array(share.layers, np.int64) - layers_of(layout, rank).start
        return cls(
            block_bytes=shape.num_layers * layer_bytes,
            layer_bytes=layer_bytes,
            head_bytes=head_bytes,
            row_bytes=row_bytes(shape),
            layers=layers * layer_bytes + in_layer,
            num_heads=len(share.heads),
        )

    @property
    def has_all_heads(self) -> bool:
        """Of its rank: then its layers are one run."""
        return self.num_heads * self.head_bytes == self.layer_bytes

    @property
    def is_whole(self) -> bool:
        """All that its rank has: then neighbours are one run."""
        return self.has_all_heads and len(self.layers) * self.layer_bytes == self.block_bytes

    def pieces(self) -> Ints:
        """[num_layers * num_heads * 2]: where each piece of the share begins in a block."""
        in_layer = np.arange(2 * self.num_heads) * (self.head_bytes // 2)
        return (self.layers[:, None] + in_layer).reshape(-1)


# --- the runs of two windows ----------------------------------------------------------------------------------------


def _runs_of_blocks(mine: _Window, theirs: _Window, my_blocks: Ints, their_blocks: Ints) -> Runs:
    """A run per block, or per layer of a block, joined where they touch."""
    here, there, num_bytes = mine.layers, theirs.layers, mine.num_heads * mine.head_bytes
    if mine.has_all_heads and theirs.has_all_heads:
        here, there, num_bytes = here[:1], there[:1], len(here) * num_bytes
    runs = np.empty((len(my_blocks), len(here), 3), np.int64)
    np.add((my_blocks * mine.block_bytes)[:, None], here, out=runs[..., 0])
    np.add((their_blocks * theirs.block_bytes)[:, None], there, out=runs[..., 1])
    runs[..., 2] = num_bytes
    flat = runs.reshape(-1, 3)
    return _merged(flat) if mine.is_whole and theirs.is_whole else flat


class _Spans(NamedTuple):
    """Tokens that lie together on both sides: no block boundary cuts them. All [num_spans]."""

    num_rows: Ints
    my_blocks: Ints
    my_rows: Ints
    """The first one of each in its block."""
    their_blocks: Ints
    their_rows: Ints


def _spans(my_size: int, my_blocks: Ints, their_size: int, their_blocks: Ints, num_tokens: int) -> _Spans:
    boundaries = {*range(0, num_tokens, my_size), *range(0, num_tokens, their_size)}
    cuts = np.array(sorted(boundaries | {num_tokens}), np.int64)
    wanted = my_blocks[cuts[:-1] // my_size] >= 0
    tokens, num_rows = cuts[:-1][wanted], np.diff(cuts)[wanted]
    return _Spans(
        num_rows,
        my_blocks[tokens // my_size],
        tokens % my_size,
        their_blocks[tokens // their_size],
        tokens % their_size,
    )


def _runs_of_spans(mine: _Window, theirs: _Window, spans: _Spans) -> Runs:
    """A run per piece and span. No two of them touch on both sides: what follows a piece that ends on both is the next
    piece of another span."""
    here, there = mine.pieces(), theirs.pieces()
    runs = np.empty((len(spans.num_rows), len(here), 3), np.int64)
    local = spans.my_blocks * mine.block_bytes + spans.my_rows * mine.row_bytes
    remote = spans.their_blocks * theirs.block_bytes + spans.their_rows * theirs.row_bytes
    np.add(local[:, None], here, out=runs[..., 0])
    np.add(remote[:, None], there, out=runs[..., 1])
    runs[..., 2] = (spans.num_rows * mine.row_bytes)[:, None]
    return runs.reshape(-1, 3)


def _merged(runs: Runs) -> Runs:
    """Join each run to the one before it where both their ends meet."""
    follows = (runs[:-1, :2] + runs[:-1, 2:] == runs[1:, :2]).all(axis=1)
    if not follows.any():
        return runs
    firsts = np.flatnonzero(np.concatenate(([True], ~follows)))
    return np.column_stack((runs[firsts, :2], np.add.reduceat(runs[:, 2], firsts)))
