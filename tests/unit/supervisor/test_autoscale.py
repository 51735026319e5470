"""What the autoscaler decides: one status and what went before, one decision with its reason."""

from __future__ import annotations

import msgspec
import pytest

from trtdisagg.config.supervisor_keys import AutoscaleBounds, AutoscaleConfig
from trtdisagg.protocol.control import ClusterStatus, ServerStatus
from trtdisagg.protocol.spec import Role
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.autoscale import Decision, Memory, by_model, decide
from trtdisagg.supervisor.rates import LATENCY_WINDOW_S

CONFIG = AutoscaleConfig(
    enabled=True,
    cooldown_s=30,
    context=AutoscaleBounds(min=1, max=3),
    generation=AutoscaleBounds(min=1, max=3),
    target_waiting=2,
    target_ttft_ms=500,
    target_tpot_ms=50,
    idle_share=0.3,
)
NO_MOVE = msgspec.structs.replace(CONFIG, move=False)
NOW = 1000.0


def server(
    name: str,
    *,
    running: int = 5,
    waiting: int = 0,
    used: int = 0,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    state: str = "ready",
    role: Role | None = None,
) -> ServerStatus:
    """One of ten places in its batch, of which half are taken if nothing else is said."""
    return ServerStatus(
        name=name,
        role=role or name.partition("-")[0],  # type: ignore[arg-type]
        state=state,  # type: ignore[arg-type]
        stats=Stats(num_running=running, num_waiting=waiting, num_blocks=100, num_used_blocks=used),
        max_running=10,
        ttft_p95_ms=ttft_ms,
        tpot_p95_ms=tpot_ms,
    )


def cluster(*servers: ServerStatus, state: str = "ready") -> ClusterStatus:
    proxy = ServerStatus(name="proxy", role="proxy", state="ready", stats=Stats(num_running=90, num_waiting=90))
    return ClusterStatus(
        cluster="c",
        state=state,  # type: ignore[arg-type]
        url="",
        file=None,
        agent_pid=1,
        up_s=1,
        servers=[proxy, *servers],
    )


def decided(*servers: ServerStatus, config: AutoscaleConfig = CONFIG, memory: Memory | None = None) -> Decision:
    return decide(cluster(*servers), config, memory or Memory(), NOW)[0]


# --- short of servers -----------------------------------------------------------------------------------------------

SHORT = {
    "context by its queue": (
        [server("context-0", waiting=3), server("generation-0")],
        "context=2: 3.0 requests wait on each context server, 2 may",
    ),
    "the queue is divided by the servers": (
        [server("context-0", waiting=5), server("context-1"), server("generation-0")],
        "context=3: 2.5 requests wait on each context server, 2 may",
    ),
    "context by the slowest server's time to first token": (
        [server("context-0", ttft_ms=100), server("context-1", ttft_ms=501), server("generation-0")],
        "context=3: p95 of the time to first token is 501 ms, the target 500 ms",
    ),
    "generation by its queue": (
        [server("context-0"), server("generation-0", waiting=4)],
        "generation=2: 4.0 requests wait on each generation server, 2 may",
    ),
    "generation by its time per token": (
        [server("context-0"), server("generation-0", tpot_ms=60)],
        "generation=2: p95 of the time per token is 60 ms, the target 50 ms",
    ),
    "both: the longer queue first": (
        [server("context-0", waiting=3), server("generation-0", waiting=9)],
        "generation=2: 9.0 requests wait on each generation server, 2 may",
    ),
    "fewer than its minimum before any queue": (
        [server("generation-0", waiting=9)],
        "context=1: context has 0 of at least 1",
    ),
    "one that has failed does not count": (
        [server("context-0", state="failed"), server("generation-0")],
        "context=1: context has 0 of at least 1",
    ),
    "the other role idle, but with one server only": (
        [server("context-0", waiting=3), server("generation-0", running=0)],
        "context=2: 3.0 requests wait on each context server, 2 may",
    ),
}


@pytest.mark.parametrize(("servers", "line"), SHORT.values(), ids=SHORT)
def test_a_role_that_is_short_gets_one_more(servers: list[ServerStatus], line: str) -> None:
    decision = decided(*servers)
    assert decision.line == line
    assert (decision.verb, decision.server) == ("add", None)


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_what_may_wait_is_no_reason(waiting: int) -> None:
    assert decided(server("context-0", waiting=waiting, ttft_ms=500), server("generation-0", tpot_ms=50)).verb == "keep"


def test_time_per_token_says_nothing_of_context_nor_time_to_first_token_of_generation() -> None:
    assert decided(server("context-0", tpot_ms=900), server("generation-0", ttft_ms=9000)).verb == "keep"


def test_at_its_maximum_nothing_is_done_and_said_why() -> None:
    three = [server(f"context-{i}", waiting=3) for i in range(3)]
    why = "3.0 requests wait on each context server, 2 may, but 3 is the maximum"
    assert decided(*three, server("generation-0")).line == f"no change: {why}"


def test_with_both_short_and_one_at_its_maximum_the_other_is_helped() -> None:
    three = [server(f"context-{i}", waiting=9) for i in range(3)]
    assert decided(*three, server("generation-0", waiting=3)).line.startswith("generation=2: ")


def test_who_waits_in_the_proxies_waits_for_generation_servers_of_its_model() -> None:
    waiting = {"mine": 3, "another": 90}
    proxies = [
        ServerStatus(name=f"proxy-{i}", role="proxy", state="ready", stats=Stats(num_waiting_by_model=waiting))
        for i in range(2)
    ]
    mine = [msgspec.structs.replace(server(name), model="mine") for name in ("context-0", "generation-0")]
    decision = decided(*proxies, *mine)
    assert decision.line.startswith("generation=2: 6.0 requests wait on each generation server, 2 may")


# --- moves ----------------------------------------------------------------------------------------------------------


def test_the_other_role_gives_its_idlest_server() -> None:
    decision = decided(
        server("context-0", waiting=3),
        server("generation-0", running=0),
        server("generation-1", running=4),
        server("generation-2", running=0),
    )
    assert (decision.verb, decision.role, decision.server, decision.count) == ("move", "context", "generation-2", 2)
    why = "3.0 requests wait on each context server, 2 may, and generation is only 13% busy"
    assert decision.line == f"switch generation-2 to context: {why}"


def test_a_server_that_was_moved_before_counts_in_its_role_of_now() -> None:
    decision = decided(
        server("context-0", running=0),
        server("generation-1", running=0, role="context"),
        server("generation-0", waiting=3),
    )
    assert (decision.verb, decision.server, decision.role) == ("move", "generation-1", "generation")


CANNOT_SPARE = {
    "busy": [server("generation-0", running=6), server("generation-1", running=0)],
    "KV cache in use": [server("generation-0", running=0, used=61), server("generation-1", running=0)],
    "one waits": [server("generation-0", running=0, waiting=1), server("generation-1", running=0)],
    "near its target": [server("generation-0", running=0, tpot_ms=36), server("generation-1", running=0)],
}


@pytest.mark.parametrize("others", CANNOT_SPARE.values(), ids=CANNOT_SPARE)
def test_nothing_is_taken_from_who_needs_it(others: list[ServerStatus]) -> None:
    assert decided(server("context-0", waiting=3), *others).verb == "add"


def test_nothing_is_moved_where_that_is_not_wanted_or_below_the_minimum() -> None:
    servers = [server("context-0", waiting=3), server("generation-0", running=0), server("generation-1", running=0)]
    assert decided(*servers).verb == "move"
    assert decided(*servers, config=NO_MOVE).verb == "add"
    at_least_two = msgspec.structs.replace(CONFIG, generation=AutoscaleBounds(min=2, max=3))
    assert decided(*servers, config=at_least_two).verb == "add"


# --- pauses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["starting", "loading", "stalled", "draining", "stopping", "backoff"])
def test_what_is_under_way_is_waited_for(state: str) -> None:
    servers = [server("context-0", waiting=9), server("context-1", state=state), server("generation-0")]
    assert decided(*servers).line == f"no change: context-1 is {state}"


def test_a_cluster_that_starts_or_stops_is_left_alone() -> None:
    for state in ("starting", "stopping", "failed"):
        decision, _ = decide(cluster(server("context-0", waiting=9), state=state), CONFIG, Memory(), NOW)
        assert decision.line == f"no change: the cluster is {state}"


def test_a_change_has_to_show_first() -> None:
    servers = [server("context-0", waiting=9), server("generation-0")]
    assert decided(*servers, memory=Memory(changed_at=NOW - 29)).line == "no change: the last change was 29 s ago"
    assert decided(*servers, memory=Memory(changed_at=NOW - 30)).verb == "add"


def test_latencies_from_before_a_change_are_no_reason_for_another() -> None:
    servers = [server("context-0", ttft_ms=900), server("generation-0", tpot_ms=90)]
    assert decided(*servers, memory=Memory(changed_at=NOW - LATENCY_WINDOW_S + 1)).verb == "keep"
    assert decided(*servers, memory=Memory(changed_at=NOW - LATENCY_WINDOW_S)).verb == "add"


# --- servers too many -----------------------------------------------------------------------------------------------

IDLE = [server("context-0"), server("generation-0", running=0), server("generation-1", running=0)]


def run(statuses: dict[float, list[ServerStatus]], memory: Memory | None = None) -> dict[float, Decision]:
    """Decisions at several times, each remembering those before."""
    memory, decisions = memory or Memory(), {}
    for at, servers in statuses.items():
        decisions[at], memory = decide(cluster(*servers), CONFIG, memory, at)
    return decisions


def test_one_that_is_not_needed_for_a_whole_pause_goes() -> None:
    decisions = run({0: IDLE, 15: IDLE, 29: IDLE, 30: IDLE})
    assert [d.verb for d in decisions.values()] == ["keep", "keep", "keep", "remove"]
    waits = "no change: 1 context 50% busy, 0.0 waiting; 2 generation 0% busy, 0.0 waiting, one could go in 15 s"
    assert decisions[15].line == waits
    assert decisions[30].line == "generation=1: generation is 0% busy and nothing waited for 30 s"


def test_a_moment_of_work_begins_the_pause_anew() -> None:
    busy = [server("context-0"), server("generation-0"), server("generation-1")]
    assert [d.verb for d in run({0: IDLE, 20: busy, 25: IDLE, 54: IDLE, 55: IDLE}).values()][-2:] == ["keep", "remove"]


def test_so_does_a_change() -> None:
    _, memory = decide(cluster(*IDLE), CONFIG, Memory(), 0)
    assert [d.verb for d in run({61: IDLE, 90: IDLE, 91: IDLE}, memory.changed(31)).values()] == [
        "keep",
        "keep",
        "remove",
    ]


def test_the_last_one_stays() -> None:
    lonely = [server("context-0", running=0), server("generation-0", running=0)]
    assert [d.verb for d in run({0: lonely, 100: lonely}).values()] == ["keep", "keep"]


def test_who_is_short_comes_before_who_has_too_many() -> None:
    servers = [server("context-0", waiting=3), *IDLE[1:]]
    assert run({0: IDLE, 30: servers})[30].verb == "move"


# --- several models -------------------------------------------------------------------------------------------------


def test_each_model_is_seen_by_itself() -> None:
    """The proxies are everybody's: what they do is waited for by all."""
    names = ("large.context-0", "large.generation-0", "small.context-0", "small.generation-0", "small.generation-1")
    seen = by_model(cluster(*(server(name, role=role_of(name)) for name in names)))
    assert {model: [s.name for s in status.servers[1:]] for model, status in seen.items()} == {
        "large": [*names[:2]],
        "small": [*names[2:]],
    }
    assert {status.servers[0].name for status in seen.values()} == {"proxy"}


def test_one_model_short_of_servers_takes_none_from_another() -> None:
    names = ("large.context-0", "large.generation-0", "small.context-0", "small.generation-0", "small.generation-1")
    there = [server(n, role=role_of(n), waiting=9 * (n == "large.generation-0"), running=0) for n in names]
    decisions = {model: decide(status, CONFIG, Memory(), NOW)[0] for model, status in by_model(cluster(*there)).items()}
    assert (decisions["large"].verb, decisions["large"].role, decisions["large"].count) == ("add", "generation", 2)
    assert decisions["small"].verb == "keep"


def role_of(name: str) -> Role:
    return "context" if "context" in name else "generation"
