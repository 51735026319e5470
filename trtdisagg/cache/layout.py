"""Where the KV of a request lies in the pools of two ranks, as runs of bytes to copy. Pure arithmetic.

A block is one record, the pieces of its rank's layers, heads, K and V one behind the other:

    block   | layer 0                                   | layer 1 ...
            | head 0        | head 1        | ...
            | K     | V     | K     | V     |           |                 one piece each
    piece   | token 0 | token 1 | ... | token tokens_per_block-1 |        one row of head_dim values per token

What two ranks have in common is a range of layers and a range of heads (`shares`). Same `tokens_per_block` on both
sides: the heads of a layer are one run of a block; all heads of both ranks: the layers are one; all layers too: blocks
that are neighbours on both sides are. Different ones: token p lies in other blocks and at other rows, so each piece is
copied by itself, in spans of tokens that lie together on both sides.

It knows shapes and block numbers, no memory.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from trtdisagg.cache.shares import Share, heads_of, layers_of, shares
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, KvShape
from trtdisagg.protocol.parallel import problems
from trtdisagg.protocol.peers import Part

Ints: TypeAlias = npt.NDArray[np.int64]
Runs: TypeAlias = Ints
"""[num_runs, 3], C order: offset in the local pool, offset in the remote pool, number of bytes."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
MUST_AGREE = ("model", "dtype", "num_layers", "num_kv_heads", "head_dim")


def block_bytes(shape: KvShape) -> int:
    """Size of one block: the K and V of `tokens_per_block` tokens in all layers and heads of a rank."""
    return shape.num_layers * shape.num_kv_heads * 2 * _piece_bytes(shape)


def rank_shape(layout: KvLayout, rank: int) -> KvShape:
    """The pool of one rank of a server."""
    return KvShape(
        model=layout.model,
        dtype=layout.dtype,
        num_layers=len(layers_of(layout, rank)),
        num_kv_heads=len(heads_of(layout, rank)),
        head_dim=layout.head_dim,
        tokens_per_block=layout.tokens_per_block,
    )


def check_layout(layout: KvLayout) -> None:
    """
    :raises HandoverError: when there cannot be such a server; layouts of peers come from outside.
    """
    sizes = (layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.tokens_per_block, layout.num_blocks)
    if min(*sizes, layout.parallel.tp_size) < 1 or layout.dtype not in ITEM_BYTES:
        raise HandoverError(f"a KV cache cannot be like this: {layout}")
    found = problems(
        layout.parallel,
        num_layers=layout.num_layers,
        num_heads=layout.num_kv_heads * layout.parallel.tp_size,  # not told, and no matter here
        num_kv_heads=layout.num_kv_heads,
        inner_sizes=(),
    )
    if found:
        raise HandoverError(f"a KV cache cannot be divided like this: {'; '.join(found)}")


def check_compatible(mine: KvLayout, theirs: KvLayout) -> None:
    """Refuse two caches between which KV cannot be copied as it is.

    :raises HandoverError: that names each field in which they differ.
    """
    reasons = []
    for field in MUST_AGREE:
        here, there = getattr(mine, field), getattr(theirs, field)
        if here != there:
            reasons.append(f"{field} is {here} here and {there} there")
    if reasons:
        raise HandoverError(f"the KV caches do not fit together: {'; '.join(reasons)}")


def plan_runs(mine: KvLayout, my_rank: int, theirs: KvLayout, part: Part) -> dict[int, Runs]:
    """What my rank copies from each of their ranks, so that its blocks hold its share of the request's first tokens.

    Rows of my last block behind the last token may be written too.

    :param part: blocks and tokens of the request; my block table covers the tokens, theirs is checked.
    :return: runs by their rank; offsets count from the beginning of each pool.
    :raises HandoverError: when their blocks do not hold so many tokens or are not in the pool, or there is no such
        `dp_rank`.
    """
    my_blocks, their_blocks = np.asarray(part.my_blocks, np.int64), np.asarray(part.their_blocks, np.int64)
    assert part.num_tokens <= len(my_blocks) * mine.tokens_per_block
    if part.num_tokens > len(their_blocks) * theirs.tokens_per_block:
        raise HandoverError(f"{part.num_tokens} tokens do not fit into the {len(their_blocks)} blocks of the ticket")
    if len(their_blocks) and not 0 <= their_blocks.min() <= their_blocks.max() < theirs.num_blocks:
        raise HandoverError("the ticket names blocks outside the pool")
    planned = {}
    for share in shares(mine, my_rank, theirs, part.their_dp_rank):
        here, there = _Window.of(mine, my_rank, share), _Window.of(theirs, share.rank, share)
        planned[share.rank] = _runs(here, my_blocks, there, their_blocks, part.num_tokens)
    return planned


# --- a share of layers and heads within the blocks of one rank ------------------------------------------------------


class _Window(NamedTuple):
    """Where a share lies in each block of a pool, in bytes."""

    tokens_per_block: int
    block_bytes: int
    layer_bytes: int
    """From one layer to the next, all heads of the rank."""
    head_bytes: int
    row_bytes: int
    first: int
    """Where the share begins."""
    num_layers: int
    """Of the share."""
    num_heads: int
    """Of the share."""

    @classmethod
    def of(cls, layout: KvLayout, rank: int, share: Share) -> _Window:
        shape = rank_shape(layout, rank)
        head_bytes = 2 * _piece_bytes(shape)
        layer_bytes = shape.num_kv_heads * head_bytes
        first_layer = share.layers.start - layers_of(layout, rank).start
        first_head = share.heads.start - heads_of(layout, rank).start
        return cls(
            tokens_per_block=shape.tokens_per_block,
            block_bytes=shape.num_layers * layer_bytes,
            layer_bytes=layer_bytes,
            head_bytes=head_bytes,
            row_bytes=_row_bytes(shape),
            first=first_layer * layer_bytes + first_head * head_bytes,
            num_layers=len(share.layers),
            num_heads=len(share.heads),
        )

    @property
    def has_all_heads(self) -> bool:
        """Of its rank: then its layers are one run."""
        return self.num_heads * self.head_bytes == self.layer_bytes

    def layers(self) -> Ints:
        """[num_layers]: where each layer of the share begins in a block."""
        return self.first + np.arange(self.num_layers) * self.layer_bytes

    def pieces(self) -> Ints:
        """[num_layers * num_heads * 2]: where each piece of the share begins in a block."""
        in_layer = np.arange(2 * self.num_heads) * (self.head_bytes // 2)
        return (self.layers()[:, None] + in_layer).reshape(-1)


# --- the runs of two windows ----------------------------------------------------------------------------------------


def _runs(mine: _Window, my_blocks: Ints, theirs: _Window, their_blocks: Ints, num_tokens: int) -> Runs:
    if mine.tokens_per_block != theirs.tokens_per_block:
        return _runs_of_spans(mine, my_blocks, theirs, their_blocks, num_tokens)
    num_blocks = -(-num_tokens // mine.tokens_per_block)
    wanted = np.flatnonzero(my_blocks[:num_blocks] >= 0)
    return _runs_of_blocks(mine, my_blocks[wanted], theirs, their_blocks[wanted])


def _runs_of_blocks(mine: _Window, my_blocks: Ints, theirs: _Window, their_blocks: Ints) -> Runs:
    """A run per block, or per layer of a block, joined where they touch."""
    here, there, num_bytes = mine.layers(), theirs.layers(), mine.num_heads * mine.head_bytes
    if mine.has_all_heads and theirs.has_all_heads:
        here, there, num_bytes = here[:1], there[:1], mine.num_layers * num_bytes
    local = my_blocks[:, None] * mine.block_bytes + here
    remote = their_blocks[:, None] * theirs.block_bytes + there
    return _merged(_rows(local, remote, num_bytes))


def _runs_of_spans(mine: _Window, my_blocks: Ints, theirs: _Window, their_blocks: Ints, num_tokens: int) -> Runs:
    """A run per piece and per span of tokens that no block boundary of either side cuts. No two of them touch on both
    sides: what follows a piece that ends on both is the next piece of another span."""
    boundaries = {*range(0, num_tokens, mine.tokens_per_block), *range(0, num_tokens, theirs.tokens_per_block)}
    cuts = np.array(sorted(boundaries | {num_tokens}), np.int64)
    wanted = my_blocks[cuts[:-1] // mine.tokens_per_block] >= 0
    tokens, num_rows = cuts[:-1][wanted], np.diff(cuts)[wanted]
    local = _row_offsets(mine, my_blocks, tokens)[:, None] + mine.pieces()
    remote = _row_offsets(theirs, their_blocks, tokens)[:, None] + theirs.pieces()
    return _rows(local, remote, num_rows[:, None] * mine.row_bytes)


def _row_offsets(window: _Window, blocks: Ints, tokens: Ints) -> Ints:
    """[len(tokens)]: where the row of each token begins, counted from its pieces."""
    n = window.tokens_per_block
    offsets: Ints = blocks[tokens // n] * window.block_bytes + tokens % n * window.row_bytes
    return offsets


def _rows(local: Ints, remote: Ints, num_bytes: Ints | int) -> Runs:
    """Put offsets of one shape and lengths that fit it together."""
    runs = np.empty((*local.shape, 3), np.int64)
    runs[..., 0], runs[..., 1], runs[..., 2] = local, remote, num_bytes
    return runs.reshape(-1, 3)


def _merged(runs: Runs) -> Runs:
    """Join each run to the one before it where both their ends meet."""
    follows = (runs[:-1, :2] + runs[:-1, 2:] == runs[1:, :2]).all(axis=1)
    if not follows.any():
        return runs
    firsts = np.flatnonzero(np.concatenate(([True], ~follows)))
    return np.column_stack((runs[firsts, :2], np.add.reduceat(runs[:, 2], firsts)))


def _piece_bytes(shape: KvShape) -> int:
    return shape.tokens_per_block * _row_bytes(shape)


def _row_bytes(shape: KvShape) -> int:
    return shape.head_dim * ITEM_BYTES[shape.dtype]
