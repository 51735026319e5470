"""Hints: each rule at what it is for, and silence at what is normal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.supervisor.test_latency import counts
from trtdisagg.protocol.control import ServerStatus
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.hints import hints
from trtdisagg.supervisor.rates import Window


def server(name: str, state: Any = "ready", **stats: Any) -> ServerStatus:
    rates = {key: stats.pop(key) for key in list(stats) if key.endswith("_s")}
    role: Any = name.rpartition("-")[0] or name
    return ServerStatus(name=name, role=role, model="m", state=state, stats=Stats(num_blocks=100, **stats), **rates)


def told(*servers: ServerStatus) -> list[str]:
    windows = {s.name: Window().add(1.0, Stats()).add(2.0, s.stats) for s in servers}
    return hints(servers, windows, 2.0)


def generation(i: int, tpot_s: float, num_answers: int = 50) -> ServerStatus:
    return server(f"generation-{i}", per_token_counts=counts(*[tpot_s] * num_answers))


def test_a_server_slower_than_its_like() -> None:
    assert told(generation(0, 0.012), generation(1, 0.045), generation(2, 0.012)) == [
        "generation-1 is 3.2 times slower per token than the others: 40 ms, not 12 ms"
    ]


def test_to_the_first_token() -> None:
    fast, slow = (server(f"context-{i}", first_token_counts=counts(*[s] * 30)) for i, s in enumerate((0.6, 2.6)))
    assert told(fast, slow) == ["context-1 is 4.2 times slower to the first token than the others: 2.5 s, not 600 ms"]


@pytest.mark.parametrize(
    "servers",
    [
        [generation(0, 0.0149), generation(1, 0.0151)],  # on both sides of a bucket's bound
        [generation(0, 0.0009), generation(1, 0.0021)],  # twice, but of nothing
        [generation(0, 0.01), generation(1, 0.1, num_answers=5)],  # too few answers to tell
        [generation(0, 0.01, num_answers=5), generation(1, 0.1)],
        [generation(0, 0.01)],
        [server("context-0", first_token_counts=counts(*[9.0] * 50)), generation(0, 0.01)],
    ],
)
def test_noise_is_no_hint(servers: list[ServerStatus]) -> None:
    assert told(*servers) == []


def test_a_queue_beside_an_empty_one() -> None:
    assert told(server("context-0", num_waiting=12), server("context-1")) == [
        "context-0 has 12 requests waiting while context-1 has none"
    ]
    assert told(server("context-0", num_waiting=3), server("context-1")) == []
    assert told(server("context-0", num_waiting=12), server("context-1", state="backoff")) == []


def test_a_role_there_is_too_little_of() -> None:
    servers = [server("context-0", num_waiting=12), server("context-1", num_waiting=30), server("generation-0")]
    assert told(*servers) == [
        "42 requests wait for context servers, none for generation servers: one more for context would help"
    ]
    assert told(*servers[:2], server("generation-0", num_waiting=9)) == []


def test_kv_is_full_and_something_waits_for_it() -> None:
    full = server("generation-0", num_used_blocks=98, num_waiting=1)
    assert told(full) == ["generation-0 has 98 % of its KV blocks in use and 1 request waiting"]
    assert told(server("generation-0", num_used_blocks=100)) == []


def test_kv_that_nobody_comes_for() -> None:
    assert told(server("context-0", num_expired_leases_total=4)) == [
        "context-0: nobody came for the KV of 4 requests in the last seconds"
    ]
    assert told(server("context-0", num_expired_leases_total=1)) == []


def test_transfers_that_fail() -> None:
    assert told(server("generation-0", num_transfer_failures_total=3)) == [
        "generation-0: 3 KV transfers failed in the last seconds"
    ]
    assert told(server("generation-0", num_transfer_failures_total=1)) == []


def test_requests_that_fail() -> None:
    assert told(server("proxy", requests_s=30.0, failures_s=4.0)) == ["proxy: 4.0 of 30.0 requests a second fail"]
    assert told(server("proxy", requests_s=300.0, failures_s=1.0)) == []
    assert told(server("proxy", requests_s=1.0, failures_s=0.1)) == []


def test_caches_that_routers_do_not_know() -> None:
    assert told(server("proxy", num_unknown_caches=2)) == [
        "proxy: what 2 servers have in their caches is not known, so load decides"
    ]
    assert told(server("proxy", num_unknown_caches=1)) == [
        "proxy: what 1 server has in its cache is not known, so load decides"
    ]
    assert told(server("proxy")) == []
