"""How Prometheus reads what was counted, and what a beat tells of it. On the request path nothing of this runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.protocol.stats import Stats
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.records.counts import Counts, Histogram
from trtdisagg.proxy.records.merged_metrics import Family, families
from trtdisagg.proxy.records.records import Records

_BOUNDS = (*map(str, LATENCY_BOUNDS_S), "+Inf")
_OF_A_SERVER = ("server", "role", "model")

Labels = tuple[str, ...]


class Metrics:
    """The page of one proxy process.

    :param counts: of requests that are over.
    :param records: and of those that are not.
    :param others: who tells what is true at the moment.
    """

    def __init__(self, counts: Counts, records: Records, admission: Admission, *others: Collector) -> None:
        self._counts = counts
        self._records = records
        self._admission = admission
        self._registry = CollectorRegistry()
        for collector in (self, *others):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def stats(self) -> Stats:
        """For the beat."""
        counts, num_waiting = self._counts.count(), self._admission.num_waiting
        return Stats(
            num_running=self._records.num_in_flight - num_waiting,
            num_waiting=num_waiting,
            num_waiting_by_model=self._admission.num_waiting_by_model(),
            num_requests_total=self._records.num_begun,
            num_failed_total=counts.num_failed,
            first_token_counts=_summed(of.first_token for of in counts.models.values()),
            per_token_counts=_summed(of.per_token for of in counts.servers["generation"].values()),
        )

    def page(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def families(self) -> list[Family]:
        """The same, to be added to those of other processes."""
        return families(self._registry.collect())

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        self._counts.count()
        yield from self._of_models()
        yield from self._of_servers()
        clients = self._counts.clients.items()
        yield _counter(
            "client_requests",
            "Requests by name of the API key they came with",
            ("client", "status"),
            (((client, str(status)), number) for (client, status), number in clients),
        )

    def _of_models(self) -> Iterator[Metric]:
        models = self._counts.models
        yield _counter(
            "requests",
            "Requests answered, by status; 499: the client left",
            ("model", "route", "status"),
            (((m, r, str(s)), n) for m, of in models.items() for (r, s), n in of.answers.items()),
        )
        yield _counter(
            "request_errors",
            "Requests that went wrong, in their streams too, by kind: the code that the client was told",
            ("model", "kind"),
            (((m, kind), n) for m, of in models.items() for kind, n in of.errors.items()),
        )
        yield _counter(
            "request_paths",
            "Requests by the way they went: both servers, or why only one",
            ("model", "path"),
            (((m, path), n) for m, of in models.items() for path, n in of.paths.items()),
        )
        for name, help_, field in (
            ("blind_routes", "Requests routed by load alone where nobody knew what caches hold", "num_blind"),
            ("retries", "Requests asked again elsewhere before an answer had begun", "num_retries"),
            ("migrations", "Streams that went on elsewhere", "num_migrations"),
            ("broken_streams", "Streams that ended with an error event", "num_broken_streams"),
            ("stream_events", "Events of streams: about one a token", "num_events"),
        ):
            yield _counter(name, help_, ("model",), (((m,), getattr(of, field)) for m, of in models.items()))
        yield _histogram(
            "request_duration_seconds",
            "From a request to the last byte of its answer",
            ("model", "route"),
            (((m, route), h) for m, of in models.items() for route, h in of.whole.items()),
        )
        for name, help_, field in (
            ("queue_seconds", "From a request to the choice of its servers", "queue"),
            (
                "time_to_first_token_seconds",
                "From a request to the first byte of its streamed answer",
                "first_token",
            ),
        ):
            yield _histogram(name, help_, ("model",), (((m,), getattr(of, field)) for m, of in models.items()))

    def _of_servers(self) -> Iterator[Metric]:
        servers = [
            ((name, kind, of.model), of) for kind, found in self._counts.servers.items() for name, of in found.items()
        ]
        yield _counter(
            "legs",
            "Times that a server was asked, by what became of it",
            (*_OF_A_SERVER, "outcome"),
            (
                ((*labels, outcome), number)
                for labels, of in servers
                for outcome, number in {"done": sum(of.first_byte.counts), **of.failures}.items()
            ),
        )
        yield _counter(
            "replayed_tokens",
            "Tokens of broken streams that a server went on behind",
            _OF_A_SERVER,
            ((labels, of.num_replayed_tokens) for labels, of in servers),
        )
        for name, help_, field in (
            ("leg_first_byte_seconds", "From asking a server to the first byte of its answer", "first_byte"),
            ("leg_duration_seconds", "From asking a generation server to the end of its answer", "whole"),
            (
                "handover_seconds",
                "From the context server's answer to generation's first byte",
                "handover",
            ),
            (
                "time_per_output_token_seconds",
                "Mean time between the events of a stream, the first left out: one observation a stream",
                "per_token",
            ),
        ):
            yield _histogram(name, help_, _OF_A_SERVER, ((labels, getattr(of, field)) for labels, of in servers))


def _summed(histograms: Iterable[Histogram]) -> list[int]:
    """Empty: nothing was observed yet."""
    summed = [sum(column) for column in zip(*(h.counts for h in histograms), strict=True)]
    return summed if any(summed) else []


def _counter(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(f"trtdisagg_proxy_{name}", text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _histogram(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """Without those in which nothing was ever observed."""
    family = HistogramMetricFamily(f"trtdisagg_proxy_{name}", text, labels=labels)
    for of, histogram in values:
        if any(histogram.counts):
            buckets = list(zip(_BOUNDS, itertools.accumulate(histogram.counts), strict=True))
            family.add_metric(of, buckets, histogram.sum_s)
    return family
