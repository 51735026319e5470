"""What a proxy that has served these requests says at /metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helpers.records import CONTEXT, GENERATION, handed_over, record
from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.protocol.proxy_spec import BreakerSpec
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.index.gauges import CacheGauges
from trtdisagg.proxy.index.index import Followed
from trtdisagg.proxy.members.uses import Uses
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.path.breaker import Breakers
from trtdisagg.proxy.records.counts import Counts
from trtdisagg.proxy.records.gauges import Gauges
from trtdisagg.proxy.records.metrics import Metrics
from trtdisagg.proxy.records.record import Record
from trtdisagg.proxy.records.records import Records
from trtdisagg.registry.members import Roster


def full_page() -> Page:
    """Of a proxy on which everything has happened once."""
    page = Page(handed_over(client="alice"), record(error="queue_full"))
    page.caches = [Followed(CONTEXT, "following", 1, 0.0, 1)]
    return page


class Page:
    """All samples of a page, read when asked."""

    def __init__(self, *records: Record) -> None:
        self.roster = Roster()
        self.roster.replace("test", [CONTEXT, GENERATION])
        self.records, self.uses = Records([]), Uses(self.roster)
        self.admission, counts = Admission(self.roster, Deadlines(), max_waiting=9), Counts(self.roster)
        self.caches: list[Followed] = []
        index: Any = SimpleNamespace(followed=lambda: self.caches)
        texts: Any = SimpleNamespace(num_read=0, num_unread=0, num_waiting=0)
        gauges = Gauges(self.records, self.admission, self.uses, self.roster, Breakers(BreakerSpec(), self.roster))
        self.metrics = Metrics(counts, self.records, self.admission, gauges, CacheGauges(index, texts))
        for made in records:
            counts.add(made)

    def text(self) -> str:
        return self.metrics.page()[0].decode()

    def value(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.text()):
            for sample in family.samples:
                if sample.name == f"trtdisagg_proxy_{name}" and sample.labels == labels:
                    return sample.value
        return None
