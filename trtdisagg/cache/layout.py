"""How a rank's part of the KV lies in its pool, and which layouts of servers there can be. Pure arithmetic.

A block is one record, the pieces of its rank's layers, heads, K and V one behind the other:

    block   | layer 0                                   | layer 1 ...
            | head 0        | head 1        | ...
            | K     | V     | K     | V     |           |                 one piece each
    piece   | token 0 | token 1 | ... | token tokens_per_block-1 |        one row of head_dim values per token

It knows shapes, no memory; whom a rank reads what from is in `shares`, the bytes to copy for a request in `planning`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trtdisagg.cache.shares import heads_of, layers_of
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout, KvShape
from trtdisagg.protocol.parallel import problems

Ints: TypeAlias = npt.NDArray[np.int64]
Runs: TypeAlias = Ints
"""[num_runs, 3], C order: offset in the local pool, offset in the remote pool, number of bytes."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
MUST_AGREE = ("model", "dtype", "num_layers", "num_kv_heads", "head_dim")


def block_bytes(shape: KvShape) -> int:
    """Size of one block: the K and V of `tokens_per_block` tokens in all layers and heads of a rank."""
    return shape.num_layers * shape.num_kv_heads * 2 * shape.tokens_per_block * row_bytes(shape)


def row_bytes(shape: KvShape) -> int:
    """Size of one token's K or V of one head."""
    return shape.head_dim * ITEM_BYTES[shape.dtype]


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
