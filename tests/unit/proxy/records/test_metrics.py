"""The page Prometheus reads, and the beat, against the records of requests."""

from __future__ import annotations

import pytest
from helpers.proxy_page import Page
from helpers.records import CONTEXT, GENERATION, OTHER, handed_over, leg, record

from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S
from trtdisagg.proxy.index.index import Followed
from trtdisagg.proxy.records.counts import BATCH

pytestmark = pytest.mark.anyio


async def test_a_request_over_two_servers() -> None:
    page = Page(handed_over())
    model, route = {"model": "m"}, {"route": "/v1/completions"}
    assert page.value("requests_total", **model, **route, status="200") == 1
    assert page.value("request_paths_total", **model, path="both") == 1
    assert page.value("stream_events_total", **model) == 12
    assert page.value("queue_seconds_sum", **model) == pytest.approx(0.01)
    assert page.value("time_to_first_token_seconds_sum", **model) == pytest.approx(0.2)
    assert page.value("request_duration_seconds_sum", **model, **route) == pytest.approx(0.3)
    context = {"server": "context-0", "role": "context", **model}
    generation = {"server": "generation-0", "role": "generation", **model}
    assert page.value("legs_total", **context, outcome="done") == 1
    assert page.value("leg_first_byte_seconds_sum", **context) == pytest.approx(0.17)
    assert page.value("leg_duration_seconds_sum", **generation) == pytest.approx(0.1)
    assert page.value("handover_seconds_sum", **generation) == pytest.approx(0.06)
    assert page.value("handover_seconds_count", **context) is None
    assert page.value("time_per_output_token_seconds_sum", **generation) == pytest.approx(0.01)
    assert page.value("request_errors_total", **model, kind="queue_full") is None


async def test_a_stream_that_went_on_elsewhere() -> None:
    legs = [
        leg("context", CONTEXT, (100.02, 100.19, 100.19)),
        leg("generation", GENERATION, (100.2, 0.0, 100.22), "failed"),
        leg("generation", OTHER, (100.22, 100.24, 100.5), num_replayed_tokens=3),
    ]
    page = Page(handed_over(legs=legs, num_retries=1, num_migrations=2))
    assert page.value("retries_total", model="m") == 1
    assert page.value("migrations_total", model="m") == 2
    failed = {"server": "generation-0", "role": "generation", "model": "m"}
    successor = {"server": "generation-1", "role": "generation", "model": "m"}
    assert page.value("legs_total", **failed, outcome="failed") == 1
    assert page.value("legs_total", **successor, outcome="done") == 1
    assert page.value("leg_first_byte_seconds_count", **failed) is None
    assert page.value("replayed_tokens_total", **successor) == 3
    assert page.value("handover_seconds_count", **successor) is None, "nothing was handed over to it"


async def test_requests_that_went_wrong() -> None:
    broken = handed_over(error="upstream_failed")
    refused = record(error="queue_full", client="alice")
    left = record(status=499, error="client_left")
    failed = record(status=502, error="upstream_failed")
    page = Page(broken, refused, left, failed)
    assert page.value("broken_streams_total", model="m") == 1
    assert page.value("request_errors_total", model="m", kind="upstream_failed") == 2
    assert page.value("request_errors_total", model="m", kind="client_left") == 1
    assert page.value("client_requests_total", client="alice", status="429") == 1
    assert page.metrics.stats().num_failed_total == 2, "the broken stream, and the 502"
    generation = {"server": "generation-0", "role": "generation", "model": "m"}
    assert page.value("time_per_output_token_seconds_count", **generation) is None


async def test_a_model_nobody_serves_is_no_label() -> None:
    page = Page(*(record(model=f"made up {i}", status=404, error="model_not_found") for i in range(3)))
    assert page.value("requests_total", model="", route="/v1/completions", status="404") == 3


async def test_gauges_are_read_when_asked() -> None:
    page = Page()
    page.roster.doubt(CONTEXT)
    page.uses.begin(GENERATION, 1, 10)
    page.records.begin("r", "/v1/completions")
    context = {"server": "context-0", "role": "context", "model": "m"}
    generation = {"server": "generation-0", "role": "generation", "model": "m"}
    assert page.value("requests_in_flight") == 1
    assert page.value("requests_waiting") == 0
    assert (page.value("server_up", **context), page.value("server_up", **generation)) == (0, 1)
    assert page.value("server_requests_in_flight", **context) == 0
    assert page.value("server_requests_in_flight", **generation) == 1


async def test_what_is_known_of_caches() -> None:
    page = Page()
    page.caches = [Followed(CONTEXT, "following", 70, 0.1, 2), Followed(GENERATION, "no_events", 0, 9.0, 0)]
    context = {"server": "context-0", "role": "context", "model": "m"}
    generation = {"server": "generation-0", "role": "generation", "model": "m"}
    assert (page.value("server_cache_known", **context), page.value("server_cache_known", **generation)) == (1, 0)
    assert page.value("server_cache_blocks", **context) == 70
    assert page.value("server_cache_lost_total", **context) == 2


async def test_many_are_counted_at_once() -> None:
    page = Page(*(handed_over() for _ in range(BATCH + 3)))
    assert page.value("requests_total", model="m", route="/v1/completions", status="200") == BATCH + 3


async def test_a_bound_belongs_to_its_bucket() -> None:
    page = Page(record(status=200, chosen=100.0, path="both", ended=105.0))
    route = {"model": "m", "route": "/v1/completions"}
    assert page.value("request_duration_seconds_bucket", **route, le="3.0") == 0
    assert page.value("request_duration_seconds_bucket", **route, le="5.0") == 1
    assert page.value("request_duration_seconds_bucket", **route, le="+Inf") == 1


async def test_the_beat_tells_counts() -> None:
    page = Page()
    assert page.metrics.stats().first_token_counts == []
    page = Page(handed_over(), record())
    page.records.begin("r", "/v1/completions")
    page.admission.num_waiting = 1
    stats = page.metrics.stats()
    first, per_token = stats.first_token_counts, stats.per_token_counts
    assert (sum(first), first[LATENCY_BOUNDS_S.index(0.3)]) == (1, 1)
    assert (sum(per_token), per_token[LATENCY_BOUNDS_S.index(0.01)]) == (1, 1)
    assert (stats.num_requests_total, stats.num_running, stats.num_waiting) == (1, 0, 1), "who waits does not run"
