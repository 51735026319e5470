"""What `/metrics` says, in Prometheus' text form. Series that TensorRT-LLM has too bear its names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S, TRANSFER_BOUNDS_S, LatencyCounts
from trtdisagg.protocol.spec import Role
from trtdisagg.protocol.stats import Stats

_FAMILIES: dict[str, type[GaugeMetricFamily | CounterMetricFamily]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
}


class _Series(NamedTuple):
    name: str
    kind: str
    help: str
    field: str
    """Of `Stats`."""


_SERIES = [
    _Series("trtllm_num_requests_running", "gauge", "Requests that run", "num_running"),
    _Series("trtllm_num_requests_waiting", "gauge", "Requests that wait", "num_waiting"),
    _Series("trtllm_prompt_tokens_total", "counter", "Prompt tokens computed", "num_prompt_tokens_total"),
    _Series("trtllm_generation_tokens_total", "counter", "Tokens generated", "num_generation_tokens_total"),
    _Series("trtdisagg_requests_total", "counter", "Requests taken by the engine", "num_requests_total"),
    _Series("trtdisagg_requests_failed_total", "counter", "Requests that the engine failed", "num_failed_total"),
    _Series("trtdisagg_steps_total", "counter", "Steps computed", "num_steps_total"),
    _Series("trtdisagg_kv_blocks", "gauge", "Blocks in the KV cache", "num_blocks"),
    _Series("trtdisagg_kv_blocks_used", "gauge", "KV blocks in use", "num_used_blocks"),
    _Series("trtdisagg_kv_blocks_held", "gauge", "KV blocks held for a handover", "num_held_blocks"),
    _Series(
        "trtdisagg_kv_blocks_quarantined",
        "gauge",
        "KV blocks of ended requests that a transfer may still write into",
        "num_quarantined_blocks",
    ),
    _Series("trtdisagg_kv_blocks_cached", "gauge", "Free KV blocks whose content can be found", "num_cached_blocks"),
    _Series(
        "trtdisagg_kv_blocks_reused_total", "counter", "Blocks of prompts that were found", "num_reused_blocks_total"
    ),
    _Series(
        "trtdisagg_kv_blocks_missed_total", "counter", "Blocks of prompts that were not", "num_missed_blocks_total"
    ),
    _Series("trtdisagg_preemptions_total", "counter", "Requests sent back to wait for blocks", "num_preemptions_total"),
    _Series("trtdisagg_kv_transfers_running", "gauge", "KV transfers to this server that run", "num_transfers_running"),
    _Series("trtdisagg_kv_transfers_total", "counter", "KV transfers received", "num_transfers_total"),
    _Series("trtdisagg_kv_transfer_failures_total", "counter", "KV transfers failed", "num_transfer_failures_total"),
    _Series("trtdisagg_kv_transfer_bytes_total", "counter", "KV bytes received", "num_transfer_bytes_total"),
    _Series(
        "trtdisagg_kv_transfer_descriptors_total",
        "counter",
        "Pieces that KV was received in",
        "num_transfer_descriptors_total",
    ),
    _Series(
        "trtdisagg_kv_leases_expired_total",
        "counter",
        "Handovers that nobody came for in time",
        "num_expired_leases_total",
    ),
    _Series(
        "trtdisagg_kv_holds_unread_total",
        "counter",
        "Handovers whose blocks were given back unread",
        "num_unread_holds_total",
    ),
]


class Metrics(Collector):
    """The series of one server."""

    def __init__(self, *, model: str, server: str) -> None:
        self._labels = {"model": model, "server": server}
        self._stats = Stats()
        self._role: Role = "both"
        self.first_token = LatencyCounts()
        self.per_token = LatencyCounts()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._success = Counter(
            "trtllm_request_success",
            "Requests answered, by the reason they ended for",
            ["model", "server", "finished_reason"],
            registry=self._registry,
        )
        self._first_token = self._histogram("trtllm_time_to_first_token_seconds", "From the request to its first text")
        self._per_token = self._histogram("trtllm_time_per_output_token_seconds", "Between tokens, the first left out")
        self._queue = self._histogram(
            "trtllm_request_queue_time_seconds",
            "From the request to its first step: on a generation server, with the transfer of its KV",
        )
        self._whole = self._histogram("trtllm_e2e_request_latency_seconds", "From the request to the end of its answer")

    def finished(self, reason: str, *, queue_s: float, first_s: float, whole_s: float, num_tokens: int) -> None:
        """Count an answer.

        :param queue_s: until its first step.
        :param first_s: until its first text.
        :param num_tokens: generated by this server.
        """
        self._success.labels(**self._labels, finished_reason=reason).inc()
        self._first_token.observe(first_s)
        self.first_token.observe(first_s)
        self._whole.observe(whole_s)
        self._queue.observe(queue_s)
        if num_tokens > 1:
            each_s = (whole_s - first_s) / (num_tokens - 1)
            self._per_token.observe(each_s)
            self.per_token.observe(each_s)

    def render(self, stats: Stats, role: Role) -> bytes:
        self._stats, self._role = stats, role
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The series that are the engine's own counters; called by the library."""
        for series in _SERIES:
            yield self._metric(series, getattr(self._stats, series.field))
        used = self._stats.num_used_blocks / max(1, self._stats.num_blocks)
        yield self._metric(_Series("trtllm_kv_cache_utilization", "gauge", "Share of KV blocks in use", ""), used)
        num_reused = self._stats.num_reused_blocks_total
        hit_rate = num_reused / max(1, num_reused + self._stats.num_missed_blocks_total)
        yield self._metric(_Series("trtllm_kv_cache_hit_rate", "gauge", "Share of prompts' blocks found", ""), hit_rate)
        yield self._transfer_seconds()
        role = GaugeMetricFamily("trtdisagg_server_role", "1 for the role it has", labels=[*self._labels, "role"])
        role.add_metric([*self._labels.values(), self._role], 1)
        yield role

    def _metric(self, series: _Series, value: float) -> Metric:
        family: CounterMetricFamily | GaugeMetricFamily
        family = _FAMILIES[series.kind](series.name, series.help, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _transfer_seconds(self) -> Metric:
        counts = self._stats.transfer_seconds_counts or [0] * (len(TRANSFER_BOUNDS_S) + 1)
        bounds = [*map(str, TRANSFER_BOUNDS_S), "+Inf"]
        help_ = "From the start of a KV transfer to the end of it"
        family = HistogramMetricFamily("trtdisagg_kv_transfer_seconds", help_, labels=list(self._labels))
        buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
        family.add_metric(list(self._labels.values()), buckets, self._stats.transfer_seconds_total)
        return family

    def _histogram(self, name: str, help_: str) -> Histogram:
        made = Histogram(name, help_, list(self._labels), buckets=LATENCY_BOUNDS_S, registry=self._registry)
        return made.labels(**self._labels)
