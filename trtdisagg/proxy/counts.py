"""Counters and histograms, as a fold over the records of requests. Knows nothing of Prometheus.

One lookup for a request's model and one for each of its legs; the rest is plain numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.proxy.record import LegKind, LegRecord, Record
from trtdisagg.registry.members import Roster

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
        self.outcomes: Counter[str] = Counter()
        self.first_byte = Histogram()
        self.whole = Histogram()
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
        self.servers: dict[tuple[str, LegKind], OfServer] = {}
        self.clients: Counter[tuple[str, int]] = Counter()
        """By name of the API key, and status."""
        self.num_failed = 0

    def add(self, record: Record) -> None:
        """Count a request that is over."""
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
            of.num_retries += record.num_retries
            of.num_migrations += record.num_migrations
            self._add_legs(record)
        if record.first_token:
            of.first_token.observe(record.first_token - record.arrived)
            of.num_events += record.num_events

    def _add_legs(self, record: Record) -> None:
        context: LegRecord | None = None
        server: OfServer | None = None
        for leg in record.legs:
            server = self._server(leg)
            server.outcomes[leg.outcome] += 1
            server.num_replayed_tokens += leg.num_replayed_tokens
            if leg.outcome != "done":
                continue
            server.first_byte.observe(leg.first_byte - leg.begun)
            server.whole.observe(leg.ended - leg.begun)
            if leg.kind == "context":
                context = leg
            elif context is not None:
                server.handover.observe(leg.first_byte - context.ended)
        if server is not None and record.num_events > 2 and not record.error:
            # The first event ends the time to first token, the last one is the end mark.
            server.per_token.observe((record.ended - record.first_token) / (record.num_events - 2))

    def _server(self, leg: LegRecord) -> OfServer:
        key = leg.member.name, leg.kind
        if (found := self.servers.get(key)) is None:
            found = self.servers[key] = OfServer(leg.member.model)
        return found
