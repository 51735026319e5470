"""From times to what is told of them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.cache.measure.cases import Group
from trtdisagg.cache.measure.orders import Timed
from trtdisagg.protocol.bench_kv import KvRow, Way, label
from trtdisagg.protocol.peers import Met
from trtdisagg.protocol.spec import Transport

_SAME_LAYOUT = "TP1->TP1"


class Times(NamedTuple):
    """Of one prompt."""

    num_bytes: int
    """Of all ranks."""
    num_descriptors: int
    first_s: float | None
    """None: it was not the first one that the servers moved."""
    seconds: Mapping[Way, Sequence[float]]
    """Round by round."""
    cpu_s: Mapping[Way, Sequence[float]]
    """Likewise, of all ranks that receive."""


def span_s(ranks: Iterable[Timed]) -> float:
    """From the first rank that begins to the last one that ends."""
    ranks = list(ranks)
    return max(timed.ended for timed in ranks) - min(timed.begun for timed in ranks)


def row(group: Group, transport: Transport, met: Sequence[Met], num_tokens: int, times: Times) -> KvRow:
    best = {way: min(seconds) for way, seconds in times.seconds.items()}
    gb_s = {way: times.num_bytes / seconds / 1e9 for way, seconds in best.items()}
    return KvRow(
        model=group.model,
        layout=label(group.pair),
        transport=transport,
        way=", ".join(sorted({f"{one.transport} {one.direction}" for one in met})),
        num_tokens=num_tokens,
        num_layers=group.context.num_layers,
        bytes=times.num_bytes,
        descriptors=times.num_descriptors,
        gb_s=gb_s["fetch"],
        latency_ms=best["fetch"] * 1e3,
        median_ms=statistics.median(times.seconds["fetch"]) * 1e3,
        first_ms=None if times.first_s is None else times.first_s * 1e3,
        memcpy_gb_s=gb_s["copy"],
        transport_gb_s=gb_s["piece"],
        descriptors_gb_s=gb_s["descriptors"],
        cpu_ms=min(times.cpu_s["fetch"]) * 1e3,
        memcpy_cpu_ms=min(times.cpu_s["copy"]) * 1e3,
        descriptors_cpu_ms=min(times.cpu_s["descriptors"]) * 1e3,
        ratio_to_memcpy=best["copy"] / best["fetch"],
        ratio_to_transport=best["piece"] / best["fetch"],
        ratio_to_descriptors=best["descriptors"] / best["fetch"],
    )


def compared(rows: Sequence[KvRow]) -> list[KvRow]:
    """With `ratio_to_same_layout`: as rows come from different minutes, the ratio of their ratios to a copy within
    memory."""
    same = {_prompt(one): one.ratio_to_memcpy for one in rows if one.layout == _SAME_LAYOUT}
    return [
        msgspec.structs.replace(one, ratio_to_same_layout=one.ratio_to_memcpy / same[_prompt(one)])
        if _prompt(one) in same
        else one
        for one in rows
    ]


def _prompt(one: KvRow) -> tuple[str, str, int]:
    return one.model, one.transport, one.num_tokens
