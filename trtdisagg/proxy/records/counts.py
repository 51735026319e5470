"""Counters and histograms, as a fold over the records of requests. Knows nothing of Prometheus.

    a request ends -> its record is kept -> every BATCH records, or when somebody asks: counted

Counting many at once costs less than one now and one then, between whose turns all that it touches was forgotten by
the processor's caches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Self

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.proxy.records.record import LegKind, LegRecord, Record
from trtdisagg.registry.members import Roster

BATCH = 256
"""Counted in less than a millisecond."""
CLIENT_LEFT = 499
"""Counted as the status of a request whose client did not wait for the answer."""


class Histogram:
    """How many observations fell between two of `LATENCY_BOUNDS_S`, and their sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class OfModel:
    """What was counted of one model; requests that never named one that is served count under an empty name."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.errors: Counter[str] = Counter()
        """By kind."""
        self.paths: Counter[str] = Counter()
        self.whole: defaultdict[str, Histogram] = defaultdict(Histogram)
        """By route."""
        self.queue = Histogram()
        self.first_token = Histogram()
        self.num_blind = 0
        self.num_retries = 0
        self.num_migrations = 0
        self.num_broken_streams = 0
        self.num_events = 0


class OfServer:
    """What was counted of one server in one of the roles that it may take in a request."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.failures: Counter[str] = Counter()
        """By outcome, other than `done`; those are counted by the histogram that follows."""
        self.first_byte = Histogram()
        self.whole = Histogram()
        """Of generation servers: context servers send their answers at once."""
        self.per_token = Histogram()
        self.handover = Histogram()
        self.num_replayed_tokens = 0


class Counts:
    """
    :param roster: knows which models are served. One that is not is no label: clients could make up any number.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.models: defaultdict[str, OfModel] = defaultdict(OfModel)
        self.servers: dict[LegKind, dict[str, OfServer]] = {"context": {}, "generation": {}}
        """By name."""
        self.clients: Counter[tuple[str, int]] = Counter()
        """By name of the API key, and status."""
        self.num_failed = 0
        self._kept: list[Record] = []

    def add(self, record: Record) -> None:
        """A request is over."""
        self._kept.append(record)
        if len(self._kept) == BATCH:
            self.count()

    def count(self) -> Self:
        """Bring all numbers up to date."""
        kept, self._kept = self._kept, []
        for record in kept:
            self._count(record)
        return self

    def _count(self, record: Record) -> None:
        status, error = record.status, record.error
        of = self.models[record.model if record.model in self._roster.snapshot.pools else ""]
        of.answers[record.route, status] += 1
        of.whole[record.route].observe(record.ended - record.arrived)
        if error:
            of.errors[error] += 1
            of.num_broken_streams += status < 400
            self.num_failed += status >= 500 or status < 400
        if record.client:
            self.clients[record.client, status] += 1
        if record.chosen:
            of.queue.observe(record.chosen - record.arrived)
            of.paths[record.path] += 1
            of.num_blind += record.is_blind
            if record.num_retries or record.num_migrations:
                of.num_retries += record.num_retries
                of.num_migrations += record.num_migrations
            self._count_legs(record)
        if record.first_token:
            of.first_token.observe(record.first_token - record.arrived)
            of.num_events += record.num_events

    def _count_legs(self, record: Record) -> None:
        answered: LegRecord | None = None
        server: OfServer | None = None
        for leg in record.legs:
            of_kind = self.servers[leg.kind]
            if (server := of_kind.get(leg.member.name)) is None:
                server = of_kind[leg.member.name] = OfServer(leg.member.model)
            if leg.outcome != "done":
                server.failures[leg.outcome] += 1
                continue
            server.first_byte.observe(leg.first_byte - leg.begun)
            if leg.kind == "context":
                answered = leg
                continue
            server.whole.observe(leg.ended - leg.begun)
            if leg.num_replayed_tokens:
                server.num_replayed_tokens += leg.num_replayed_tokens
            elif answered is not None:
                server.handover.observe(leg.first_byte - answered.ended)
        if server is not None and record.num_events > 2 and not record.error:
            # The first event ends the time to first token, the last one is the end mark.
            server.per_token.observe((record.ended - record.first_token) / (record.num_events - 2))
