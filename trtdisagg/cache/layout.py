"""Where the KV of a request lies in two pools, as runs of bytes to copy. Pure arithmetic.

A block is one record, the pieces of its layers, heads, K and V one behind the other:

    block   | piece 0            | piece 1            | ...        one piece per (layer, kv_head, k|v)
    piece   | token 0 | token 1 | ... | token tokens_per_block-1 | one row of head_dim values per token

Same `tokens_per_block` on both sides: whole blocks are copied, and neighbours on both sides in one run. Different ones:
token p lies in other blocks and at other rows, so each piece is copied by itself, in spans of tokens that lie together
on both sides.

It knows shapes and block numbers, no memory. Both sides hold all layers and heads; a server of several ranks meets one
of the same split only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvShape

Ints: TypeAlias = npt.NDArray[np.int64]
Runs: TypeAlias = Ints
"""[num_runs, 3], C order: offset in the local pool, offset in the remote pool, number of bytes."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
MUST_AGREE = ("model", "dtype", "num_layers", "num_kv_heads", "head_dim")


def block_bytes(shape: KvShape) -> int:
    """Size of one block: the K and V of `tokens_per_block` tokens in all layers and heads."""
    return _num_pieces(shape) * shape.tokens_per_block * _row_bytes(shape)


def check_compatible(mine: KvShape, theirs: KvShape) -> None:
    """Refuse two pools between which KV cannot be copied as it is.

    :raises HandoverError: that names each field in which they differ.
    """
    reasons = []
    for field in MUST_AGREE:
        here, there = getattr(mine, field), getattr(theirs, field)
        if here != there:
            reasons.append(f"{field} is {here} here and {there} there")
    if reasons:
        raise HandoverError(f"the KV caches do not fit together: {'; '.join(reasons)}")


def transfer_runs(
    mine: KvShape, my_blocks: Sequence[int], theirs: KvShape, their_blocks: Sequence[int], num_tokens: int
) -> Runs:
    """What to copy so that my blocks hold the first `num_tokens` tokens of theirs.

    Rows of my last block behind the last token may be written too.

    :param my_blocks: my block table in token order, `num_tokens` long or longer; -1: that block is not wanted.
    :param their_blocks: theirs; as it comes from outside, it is checked.
    :raises HandoverError: when their blocks do not hold so many tokens.
    """
    assert num_tokens <= len(my_blocks) * mine.tokens_per_block
    if num_tokens > len(their_blocks) * theirs.tokens_per_block:
        raise HandoverError(f"{num_tokens} tokens do not fit into the {len(their_blocks)} blocks of the ticket")
    local, remote = np.asarray(my_blocks, np.int64), np.asarray(their_blocks, np.int64)
    if mine.tokens_per_block == theirs.tokens_per_block:
        num_blocks = -(-num_tokens // mine.tokens_per_block)
        wanted = np.flatnonzero(local[:num_blocks] >= 0)
        return _merged(_whole_blocks(block_bytes(mine), local[wanted], remote[wanted]))
    return _merged(_pieces(mine, local, theirs, remote, num_tokens))


def _whole_blocks(num_bytes: int, my_blocks: Ints, their_blocks: Ints) -> Runs:
    return np.column_stack((my_blocks * num_bytes, their_blocks * num_bytes, np.full_like(my_blocks, num_bytes)))


def _pieces(mine: KvShape, my_blocks: Ints, theirs: KvShape, their_blocks: Ints, num_tokens: int) -> Runs:
    """One run per piece and per span of tokens that no block boundary of either side cuts."""
    boundaries = {*range(0, num_tokens, mine.tokens_per_block), *range(0, num_tokens, theirs.tokens_per_block)}
    cuts = np.array(sorted(boundaries | {num_tokens}), np.int64)
    wanted = my_blocks[cuts[:-1] // mine.tokens_per_block] >= 0
    tokens, num_rows = cuts[:-1][wanted], np.diff(cuts)[wanted]
    local = _piece_offsets(mine, my_blocks, tokens)
    remote = _piece_offsets(theirs, their_blocks, tokens)
    num_bytes = np.broadcast_to(num_rows[:, None] * _row_bytes(mine), local.shape)
    return np.stack((local, remote, num_bytes), axis=-1).reshape(-1, 3)


def _piece_offsets(shape: KvShape, blocks: Ints, tokens: Ints) -> Ints:
    """[len(tokens), num_pieces]: where the row of each token begins in each piece."""
    n, row = shape.tokens_per_block, _row_bytes(shape)
    in_first_piece = blocks[tokens // n] * block_bytes(shape) + tokens % n * row
    offsets: Ints = in_first_piece[:, None] + np.arange(_num_pieces(shape)) * (n * row)
    return offsets


def _merged(runs: Runs) -> Runs:
    """Join each run to the one before it where both their ends meet."""
    if not len(runs):
        return runs
    follows = (runs[:-1, :2] + runs[:-1, 2:] == runs[1:, :2]).all(axis=1)
    firsts = np.flatnonzero(np.concatenate(([True], ~follows)))
    return np.column_stack((runs[firsts, :2], np.add.reduceat(runs[:, 2], firsts)))


def _num_pieces(shape: KvShape) -> int:
    return shape.num_layers * shape.num_kv_heads * 2


def _row_bytes(shape: KvShape) -> int:
    return shape.head_dim * ITEM_BYTES[shape.dtype]
