"""What all requests of one proxy process share."""

from __future__ import annotations

import time
from typing import Self

import msgspec

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.ids import DisaggIds, process_of
from trtdisagg.proxy.index.gauges import CacheGauges
from trtdisagg.proxy.index.index import Index
from trtdisagg.proxy.members.uses import Elsewhere, Uses
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.path.asks import Asks
from trtdisagg.proxy.path.breaker import Breakers
from trtdisagg.proxy.path.legs import Legs
from trtdisagg.proxy.path.releases import Releases
from trtdisagg.proxy.path.retries import RetryBudget
from trtdisagg.proxy.records.counts import Counts
from trtdisagg.proxy.records.gauges import Gauges
from trtdisagg.proxy.records.metrics import Metrics
from trtdisagg.proxy.records.perf import PerfLog
from trtdisagg.proxy.records.readers import Readers
from trtdisagg.proxy.records.records import Records
from trtdisagg.proxy.routing.ask import View
from trtdisagg.proxy.texts.texts import Texts
from trtdisagg.registry.members import Roster


class Means(msgspec.Struct, frozen=True, kw_only=True):
    spec: ProxySpec
    roster: Roster
    legs: Legs
    records: Records
    readers: Readers
    metrics: Metrics
    ids: DisaggIds
    deadlines: Deadlines
    uses: Uses
    admission: Admission
    view: View
    """What routing looks at beside the roster."""
    asks: Asks
    perf: PerfLog
    releases: Releases
    texts: Texts
    index: Index
    retry_budget: RetryBudget

    @classmethod
    def make(cls, spec: ProxySpec, roster: Roster, pool: Pool, elsewhere: Elsewhere | None = None) -> Self:
        """
        :param pool: connections to servers.
        :param elsewhere: the other processes of this proxy, if there are any.
        """
        deadlines, uses, counts = Deadlines(), Uses(roster, elsewhere), Counts(roster)
        index, texts = Index(spec.models, roster, pool, deadlines), _texts(spec, deadlines)
        view = View(uses.load, index.match, spec.models, spec.kv_overcommit)
        admission = Admission(roster, deadlines, max_waiting=spec.max_queue_size, has_others=elsewhere is not None)
        uses.watch(admission.has_room)
        perf = PerfLog(pool, spec.perf_metrics_max_requests)
        readers = Readers.make(spec)
        records = Records([counts.add, *([perf.add] if perf.is_on else []), *readers.all()])
        breakers = Breakers(spec.breaker, roster)
        return cls(
            spec=spec,
            roster=roster,
            legs=Legs(pool, roster, breakers),
            records=records,
            readers=readers,
            metrics=Metrics(
                counts,
                records,
                admission,
                Gauges(records, admission, uses, roster, breakers),
                CacheGauges(index, texts),
            ),
            ids=DisaggIds(process=process_of(spec)),
            deadlines=deadlines,
            uses=uses,
            admission=admission,
            view=view,
            asks=Asks(roster, view),
            perf=perf,
            releases=Releases(pool),
            texts=texts,
            index=index,
            retry_budget=RetryBudget(spec.retry_share, time.monotonic()),
        )


def _texts(spec: ProxySpec, deadlines: Deadlines) -> Texts:
    return Texts(
        {name: model.model_path for name, model in spec.models.items() if model.model_path is not None},
        deadlines,
        num_processes=spec.num_text_workers,
        routed=[name for name, model in spec.models.items() if model.reads_prompts and model.model_path is not None],
    )
