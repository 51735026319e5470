"""What a proxy that has served these requests says at /metrics."""

from __future__ import annotations

from helpers.records import CONTEXT, GENERATION
from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.protocol.spec import BreakerSpec
from trtdisagg.proxy.admission import Admission
from trtdisagg.proxy.breaker import Breakers
from trtdisagg.proxy.counts import Counts
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.gauges import Gauges
from trtdisagg.proxy.metrics import Metrics
from trtdisagg.proxy.record import Record
from trtdisagg.proxy.records import Records
from trtdisagg.proxy.uses import Uses
from trtdisagg.registry.members import Roster


class Page:
    """All samples of a page, read when asked."""

    def __init__(self, *records: Record) -> None:
        self.roster = Roster()
        self.roster.replace("test", [CONTEXT, GENERATION])
        self.records, self.uses = Records([]), Uses(self.roster)
        self.admission, counts = Admission(self.roster, Deadlines(), max_waiting=9), Counts(self.roster)
        gauges = Gauges(self.records, self.admission, self.uses, self.roster, Breakers(BreakerSpec(), self.roster))
        self.metrics = Metrics(counts, self.records, self.admission, gauges)
        for made in records:
            counts.add(made)

    def value(self, name: str, **labels: str) -> float | None:
        page, _ = self.metrics.page()
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if sample.name == f"trtdisagg_proxy_{name}" and sample.labels == labels:
                    return sample.value
        return None
