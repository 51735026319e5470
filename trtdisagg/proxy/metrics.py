"""What the proxy counts, and how Prometheus reads it.

On the request path there are plain numbers only; the rest is made when somebody asks.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.latencies import LatencyCounts
from trtdisagg.protocol.stats import Stats
from trtdisagg.registry.members import Roster

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIENT_LEFT = 499
"""Counted as the status of a request whose client did not wait for the answer."""

Labels = tuple[str, ...]


class Histogram:
    """How many observations fell between two of `SECONDS`, and their sum."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Labels) -> None:
        bounds = [*(str(float(s)) for s in SECONDS), "+Inf"]
        buckets = list(zip(bounds, itertools.accumulate(self._counts), strict=True))
        family.add_metric(labels, buckets, self._sum)


class Metrics:
    """All counters of one proxy process.

    :param roster: asked, when somebody reads, for who is up.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.num_in_flight = 0
        self.num_requests = 0
        self.num_failed = 0
        self._first_token, self._per_token = LatencyCounts(), LatencyCounts()
        self._legs_in_flight: Counter[str] = Counter()
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._retries: Counter[Labels] = Counter()
        self._leg_failures: Counter[Labels] = Counter()
        self._broken_streams: Counter[Labels] = Counter()
        self._durations: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self._first_tokens: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    # --- told by the request path -----------------------------------------------------------------------------------

    def request_begins(self) -> None:
        self.num_in_flight += 1
        self.num_requests += 1

    def request_ends(self, model: str, route: str, status: int, seconds: float) -> None:
        self.num_in_flight -= 1
        self.num_failed += status >= 500
        self._answers[model, route, status] += 1
        self._durations[model, route].observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        self._first_tokens[(model,)].observe(seconds)
        self._first_token.observe(seconds)

    def stream_ends(self, seconds: float, num_events: int) -> None:
        """A stream came to its end mark.

        :param seconds: since its first event.
        :param num_events: one a token, and the end mark.
        """
        if num_events > 2:
            self._per_token.observe(seconds / (num_events - 2))

    def retry(self, model: str) -> None:
        self._retries[(model,)] += 1

    def leg_begins(self, member: Member) -> None:
        self._legs_in_flight[member.name] += 1

    def leg_ends(self, member: Member) -> None:
        self._legs_in_flight[member.name] -= 1

    def leg_failed(self, member: Member) -> None:
        self._leg_failures[member.name, member.model] += 1

    def stream_broke(self, model: str) -> None:
        self.num_failed += 1
        self._broken_streams[(model,)] += 1

    # --- asked from outside -----------------------------------------------------------------------------------------

    def stats(self, *, num_waiting: int = 0) -> Stats:
        """For the beat.

        :param num_waiting: requests in flight that wait for a server.
        """
        return Stats(
            num_running=self.num_in_flight - num_waiting,
            num_waiting=num_waiting,
            num_requests_total=self.num_requests,
            num_failed_total=self.num_failed,
            first_token_counts=self._first_token.counts,
            per_token_counts=self._per_token.counts,
        )

    def page(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        answers: dict[Labels, int] = {(m, route, str(status)): n for (m, route, status), n in self._answers.items()}
        yield _counter(
            "requests", "Requests answered, by status; 499: the client left", ["model", "route", "status"], answers
        )
        yield _counter("retries", "Legs asked again elsewhere", ["model"], self._retries)
        yield _counter("leg_failures", "Legs that failed, by server", ["server", "model"], self._leg_failures)
        yield _counter("broken_streams", "Streams that ended with an error event", ["model"], self._broken_streams)
        yield _histogram(
            "request_duration_seconds",
            "From a request to the last byte of its answer",
            ["model", "route"],
            self._durations,
        )
        yield _histogram(
            "time_to_first_token_seconds",
            "From a request to the first byte of its streamed answer",
            ["model"],
            self._first_tokens,
        )
        yield GaugeMetricFamily(
            "trtdisagg_proxy_requests_in_flight", "Requests not yet answered", value=self.num_in_flight
        )
        yield from self._collect_servers()

    def _collect_servers(self) -> Iterator[Metric]:
        labels = ["server", "role", "model"]
        up = GaugeMetricFamily("trtdisagg_proxy_server_up", "1: requests are routed to it", labels=labels)
        in_flight = GaugeMetricFamily("trtdisagg_proxy_server_legs_in_flight", "Legs it works on", labels=labels)
        for member in self._roster.members:
            values = [member.name, member.role, member.model]
            up.add_metric(values, float(self._roster.is_listed(member)))
            in_flight.add_metric(values, self._legs_in_flight[member.name])
        yield up
        yield in_flight


def _counter(name: str, text: str, labels: list[str], values: Mapping[Labels, int]) -> Metric:
    family = CounterMetricFamily(f"trtdisagg_proxy_{name}", text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _histogram(name: str, text: str, labels: list[str], values: Mapping[Labels, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"trtdisagg_proxy_{name}", text, labels=labels)
    for of, histogram in values.items():
        histogram.add_to(family, of)
    return family
