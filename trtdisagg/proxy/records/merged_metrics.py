"""`/metrics` of a proxy of several processes: whoever is asked has the others say theirs, and adds up. Mostly pure.

    counters, histograms, gauges    added, sample by sample, but for the gauges that `gauges.NOT_ADDED` names
    a process that does not answer  is left out, and counted: its samples come back with the next page
    one that has ended              counts on with what it last said (`kept_pages`), so that no counter goes back

Pages travel as msgpack of samples: reading Prometheus' text again would cost more than making it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from trtdisagg.proxy.records.gauges import NOT_ADDED

Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one process."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]]


def families(metrics: Iterable[Metric]) -> list[Family]:
    return [
        Family(m.name, m.type, m.documentation, [(s.name, tuple(s.labels.items()), s.value) for s in m.samples])
        for m in metrics
    ]


def encode(page: Sequence[Family]) -> bytes:
    return msgspec.msgpack.encode(page)


def decode(page: bytes) -> list[Family]:
    """
    :raises msgspec.DecodeError: it is none.
    """
    return msgspec.msgpack.decode(page, type=list[Family])


def added(pages: Iterable[Sequence[Family]]) -> list[Family]:
    """One page of all."""
    kinds: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], float]] = {}
    for page in pages:
        for family in page:
            kinds.setdefault(family.name, family)
            mine, rule = sums.setdefault(family.name, {}), NOT_ADDED.get(family.name)
            for name, labels, value in family.samples:
                before = mine.get((name, labels))
                mine[name, labels] = value if before is None else _one(before, value, rule)
    return [
        Family(name, family.kind, family.help, [(*key, value) for key, value in sums[name].items()])
        for name, family in kinds.items()
    ]


def that_only_grow(page: Iterable[Family]) -> list[Family]:
    """What is left of a process that has ended: nothing of it is in flight any more."""
    return [family for family in page if family.kind in ("counter", "histogram")]


def _one(one: float, other: float, rule: Literal["min", "max"] | None) -> float:
    if rule is None:
        return one + other
    return min(one, other) if rule == "min" else max(one, other)


class AsMetrics:
    """A page in the form that Prometheus' library writes."""

    def __init__(self, page: Sequence[Family]) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        for family in self._page:
            metric = Metric(family.name, family.help, family.kind)
            metric.samples = [Sample(name, dict(labels), value) for name, labels, value in family.samples]
            yield metric
