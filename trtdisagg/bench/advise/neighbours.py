"""Servers that slow each other down, as those of one CPU do: by how many others compute at the same time, on average.

How long a server computes depends on how slow it is, which depends on the others: simulated until both agree. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from trtdisagg.bench.advise.cost import Cost
from trtdisagg.bench.advise.profile import Neighbours


class Busy(NamedTuple):
    """Servers that compute prompts, and that generate, on average over a time."""

    prefilling: float
    decoding: float


def slowed(cost: Cost, neighbours: Neighbours, busy: Busy) -> Cost:
    """
    :param busy: the others. What one of them does was measured; more of them count as often, which is more than true
        where the first one has taken what there was.
    """
    prefill = 1 + _more(neighbours.prefill_by_prefill, neighbours.prefill_by_decode, busy)
    decode = 1 + _more(neighbours.decode_by_prefill, neighbours.decode_by_decode, busy)
    return cost._replace(
        decode_s=cost.decode_s * decode,
        kv_s=cost.kv_s * decode,
        shared_s=cost.shared_s * decode,
        prefill_s=cost.prefill_s * prefill,
        pair_s=cost.pair_s * prefill,
    )


def _more(by_prefill: float, by_decode: float, busy: Busy) -> float:
    return (by_prefill - 1) * busy.prefilling + (by_decode - 1) * busy.decoding
