"""The page Prometheus reads, against what was counted."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.proxy.metrics import Metrics
from trtdisagg.registry.members import Roster


def samples(metrics: Metrics) -> dict[str, float]:
    page, _ = metrics.page()
    return {
        f"{s.name.removeprefix('trtdisagg_proxy_')}{sorted(s.labels.values())}": s.value
        for family in text_string_to_metric_families(page.decode())
        for s in family.samples
    }


def test_what_was_counted_is_on_the_page() -> None:
    roster = Roster()
    first = Member(name="context-0", role="context", model="m", url="a")
    second = Member(name="generation-0", role="generation", model="m", url="b")
    roster.replace("test", [first, second])
    roster.doubt(first)
    metrics = Metrics(roster)
    for status, seconds in ((200, 0.003), (200, 0.3), (502, 1000.0)):
        metrics.request_begins()
        metrics.request_ends("m", "/v1/completions", status, seconds)
    metrics.request_begins()
    metrics.first_token("m", 0.02)
    metrics.leg_begins(second)
    metrics.leg_failed(second)
    metrics.retry("m")
    got = samples(metrics)
    assert got["requests_total['/v1/completions', '200', 'm']"] == 2
    assert got["requests_total['/v1/completions', '502', 'm']"] == 1
    assert got["requests_in_flight[]"] == 1
    assert got["request_duration_seconds_count['/v1/completions', 'm']"] == 3
    assert got["request_duration_seconds_sum['/v1/completions', 'm']"] == 1000.303
    assert got["request_duration_seconds_bucket['/v1/completions', '0.005', 'm']"] == 1
    assert got["request_duration_seconds_bucket['/v1/completions', '0.5', 'm']"] == 2
    assert got["request_duration_seconds_bucket['+Inf', '/v1/completions', 'm']"] == 3
    assert got["time_to_first_token_seconds_count['m']"] == 1
    assert got["retries_total['m']"] == 1
    assert got["leg_failures_total['generation-0', 'm']"] == 1
    assert got["server_up['context', 'context-0', 'm']"] == 0
    assert got["server_up['generation', 'generation-0', 'm']"] == 1
    assert got["server_legs_in_flight['generation', 'generation-0', 'm']"] == 1
    assert metrics.stats().num_running == 1
    assert metrics.stats().num_failed_total == 1


def test_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics(Roster())
    metrics.first_token("m", 0.005)
    assert samples(metrics)["time_to_first_token_seconds_bucket['0.005', 'm']"] == 1


def test_latencies_are_told_as_counts() -> None:
    metrics = Metrics(Roster())
    assert metrics.stats().first_token_counts == []
    metrics.first_token("m", 0.02)
    metrics.stream_ends(1.0, num_events=12)
    metrics.stream_ends(1.0, num_events=2)
    stats = metrics.stats(num_waiting=0)
    first, per_token = stats.first_token_counts, stats.per_token_counts
    assert (sum(first), first[LATENCY_BOUNDS_S.index(0.02)]) == (1, 1)
    assert (sum(per_token), per_token[LATENCY_BOUNDS_S.index(0.1)]) == (1, 1), "a single token has no time per token"


def test_who_waits_does_not_run() -> None:
    metrics = Metrics(Roster())
    for _ in range(3):
        metrics.request_begins()
    stats = metrics.stats(num_waiting=2)
    assert (stats.num_running, stats.num_waiting) == (1, 2)
