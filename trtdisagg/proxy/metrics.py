"""What the proxy counts, and how Prometheus reads it.

On the request path there are only plain numbers and children that were bound before; the rest is made when asked for.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.spec import Stats
from trtdisagg.registry.members import Roster

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIENT_LEFT = 499
"""Counted as the status of a request whose client did not wait for the answer."""


class Metrics:
    """All counters of one proxy process.

    :param roster: asked, when somebody reads, for who is up.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._in_flight: Tally[str] = Tally()
        self.num_in_flight = 0
        self.num_requests = 0
        self.num_failed = 0
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "trtdisagg_proxy_requests",
            "Requests answered, by status; 499: the client left",
            ["model", "route", "status"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "trtdisagg_proxy_request_duration_seconds",
            "From a request to the last byte of its answer",
            ["model", "route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "trtdisagg_proxy_time_to_first_token_seconds",
            "From a request to the first byte of its streamed answer",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._retries = Counter(
            "trtdisagg_proxy_retries", "Legs asked again elsewhere", ["model"], registry=self._registry
        )
        self._leg_failures = Counter(
            "trtdisagg_proxy_leg_failures", "Legs that failed, by server", ["server", "model"], registry=self._registry
        )
        self._broken_streams = Counter(
            "trtdisagg_proxy_broken_streams",
            "Streams that ended with an error event",
            ["model"],
            registry=self._registry,
        )
        # Bound once a label set; the sets are few, because unknown models are not among them.
        self._requests_of = functools.cache(self._requests.labels)
        self._duration_of = functools.cache(self._duration.labels)
        self._first_token_of = functools.cache(self._first_token.labels)
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
        self._requests_of(model, route, status).inc()
        self._duration_of(model, route).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        self._first_token_of(model).observe(seconds)

    def retry(self, model: str) -> None:
        self._retries.labels(model).inc()

    def leg_begins(self, member: Member) -> None:
        self._in_flight[member.name] += 1

    def leg_ends(self, member: Member) -> None:
        self._in_flight[member.name] -= 1
        if not self._in_flight[member.name]:
            del self._in_flight[member.name]

    def leg_failed(self, member: Member) -> None:
        self._leg_failures.labels(member.name, member.model).inc()

    def stream_broke(self, model: str) -> None:
        self.num_failed += 1
        self._broken_streams.labels(model).inc()

    # --- asked from outside -----------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """For the beat."""
        return Stats(
            num_running=self.num_in_flight, num_requests_total=self.num_requests, num_failed_total=self.num_failed
        )

    def page(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for the values that are kept elsewhere."""
        yield GaugeMetricFamily(
            "trtdisagg_proxy_requests_in_flight", "Requests not yet answered", value=self.num_in_flight
        )
        labels = ["server", "role", "model"]
        up = GaugeMetricFamily("trtdisagg_proxy_server_up", "1: requests are routed to it", labels=labels)
        in_flight = GaugeMetricFamily("trtdisagg_proxy_server_legs_in_flight", "Legs it works on", labels=labels)
        for member in self._roster.members:
            values = [member.name, member.role, member.model]
            up.add_metric(values, float(self._roster.is_listed(member)))
            in_flight.add_metric(values, self._in_flight[member.name])
        yield up
        yield in_flight
