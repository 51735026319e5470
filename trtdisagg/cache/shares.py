"""Which rank of a server reads what of the ranks of another. Pure arithmetic on layers and heads.

    theirs: tp 2, pp 2                     mine: tp 1, pp 2

              heads 0-3   heads 4-7                 heads 0-7
    layers    rank 0      rank 1           layers   rank 0       reads layers 0-7 from ranks 0 and 1,
    0 .. 7                                 0 .. 11                     layers 8-11 from ranks 2 and 3
    layers    rank 2      rank 3           layers   rank 1       reads layers 12-15 from ranks 2 and 3
    8 .. 15                                12 .. 15

A head that several of their ranks have is read from one of them, and readers of the same one are spread over those
ranks. With attention data parallelism the ranks of one `dp_rank` have the KV of a request, and the others nothing.

It knows no blocks and no bytes: that is `layout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout


class Share(NamedTuple):
    """What one rank of ours reads from one of theirs, in numbers of the model."""

    rank: int
    """Theirs."""
    layers: range
    heads: range


def holders(layout: KvLayout, dp_rank: int) -> list[int]:
    """The ranks of a server that have KV of a request of that `dp_rank`: with attention data parallelism one of each
    stage, otherwise all.

    :raises HandoverError: when there is no such `dp_rank`; it comes with the ticket.
    """
    check_dp_rank(layout, dp_rank)
    parallel = layout.parallel
    return [r for r in range(parallel.num_ranks) if not parallel.attention_dp or parallel.tp_rank(r) == dp_rank]


def check_dp_rank(layout: KvLayout, dp_rank: int) -> None:
    """
    :raises HandoverError: when there is no such `dp_rank`.
    """
    if not 0 <= dp_rank < layout.parallel.dp_size:
        raise HandoverError(f"the ticket names dp_rank {dp_rank} of a server that has {layout.parallel.dp_size}")


def layers_of(layout: KvLayout, rank: int) -> range:
    """Those that a rank has, in numbers of the model."""
    return layout.parallel.layers(layout.parallel.pp_rank(rank), layout.num_layers)


def heads_of(layout: KvLayout, rank: int) -> range:
    """The KV heads that a rank has, in numbers of the model."""
    return layout.parallel.kv_heads(layout.parallel.tp_rank(rank), layout.num_kv_heads)


def shares(mine: KvLayout, my_rank: int, theirs: KvLayout, their_dp_rank: int) -> list[Share]:
    """What my rank reads of a request of that `dp_rank` of theirs: all its layers and heads, each once.

    :raises HandoverError: when there is no such `dp_rank`.
    """
    return list(_shares(mine, my_rank, theirs, their_dp_rank))


def ranks_to_meet(mine: KvLayout, my_rank: int, theirs: KvLayout) -> list[int]:
    """Those of their ranks that my rank reads from for any request."""
    met = {share.rank for dp_rank in range(theirs.parallel.dp_size) for share in shares(mine, my_rank, theirs, dp_rank)}
    return sorted(met)


def _shares(mine: KvLayout, my_rank: int, theirs: KvLayout, their_dp_rank: int) -> Iterator[Share]:
    reader = _reader(mine, my_rank)
    for rank in holders(theirs, their_dp_rank):
        layers = _overlap(layers_of(mine, my_rank), layers_of(theirs, rank))
        heads = _overlap(heads_of(mine, my_rank), heads_of(theirs, rank))
        if layers and heads and _copy(theirs, rank) == reader % _num_copies(theirs):
            yield Share(rank, layers, heads)


def _overlap(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _num_copies(layout: KvLayout) -> int:
    """How many ranks of a stage have the same head, and the same requests."""
    return max(1, layout.parallel.attention_tp_size // layout.num_kv_heads)


def _copy(layout: KvLayout, rank: int) -> int:
    """Which one of them this rank is."""
    return layout.parallel.tp_rank(rank) % _num_copies(layout)


def _reader(layout: KvLayout, rank: int) -> int:
    """Counts the ranks that read the same head, of one request or of several."""
    parallel = layout.parallel
    num_in_stage = parallel.dp_size * _num_copies(layout)
    return parallel.pp_rank(rank) * num_in_stage + parallel.tp_rank(rank) % num_in_stage
