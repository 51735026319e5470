from __future__ import annotations

from pathlib import Path

import pytest
from helpers.plans import cluster_file, plan_of
from helpers.supervision import Replay, up

from trtdisagg.protocol.control import ClusterStatus, Members
from trtdisagg.protocol.reports import Beat, Ready
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor import view
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.place import Place

PLAN = plan_of(cluster_file())
PLACE = Place(Path("/run/x"), Path("/state/x/logs"))


def plan_by_name(name: str) -> ChildPlan:
    """Of the children of the file, of servers that were added, and of old proxies."""
    by_name = {child.name: child for child in PLAN.children}
    return by_name.get(name) or by_name[f"{name.rpartition('-')[0]}-0" if "-" in name else "proxy"]


def routable(replay: Replay) -> Members:
    return view.routable(replay.state, PLAN, plan_by_name)


def names(replay: Replay) -> list[str]:
    return [member.name for member in routable(replay).members]


def coming(replay: Replay) -> list[str]:
    """What requests may wait for."""
    return list(routable(replay).coming.get("tiny", []))


def status(replay: Replay) -> ClusterStatus:
    return view.status(replay.state, PLAN, plan_by_name, PLACE, now=replay.now, agent_pid=1, events=["a line"])


def test_the_cluster_in_one_word() -> None:
    replay = Replay()
    assert status(replay).state == "starting"
    replay = up()
    assert status(replay).state == "ready"
    replay.play("10 context-0 dies")
    assert status(replay).state == "degraded"
    replay.play("20 cluster stop")
    assert (status(replay).state, status(replay).reason) == ("stopping", "SIGINT")


def test_a_row_of_the_table() -> None:
    replay = up().play("13 cluster passes")
    row = next(s for s in status(replay).servers if s.name == "generation-0")
    assert (row.state, row.up_s, row.restarts, row.url) == ("ready", 10.0, 0, "127.0.0.1:7")
    assert row.log_file == "/state/x/logs/generation-0.log"
    assert row.pid is not None


def test_rates_are_between_the_beats_that_are_kept() -> None:
    replay = up()
    replay.frozen = {"context-0"}
    for second in range(1, 31):
        replay.advance(3 + second)
        stats = Stats(num_prompt_tokens_total=100 * second, num_generation_tokens_total=7 * second)
        replay.report("context-0", Beat(stats=stats))
    row = next(s for s in status(replay).servers if s.name == "context-0")
    assert (row.tokens_in_s, row.tokens_out_s) == (100.0, 7.0)


def test_members_have_the_limits_they_reported_and_an_address_that_can_be_dialled() -> None:
    replay = up().play("""
        10 context-0 dies
        12 cluster passes
    """)
    assert names(replay) == ["generation-0"]
    ready = Ready(host="0.0.0.0", port=81, max_seq_len=99, num_blocks=5, tokens_per_block=32, max_batch_size=3)
    replay.report("context-0", ready)
    member = routable(replay).members[0]
    assert (member.url, member.role) == ("127.0.0.1:81", "context")
    assert (member.max_seq_len, member.num_blocks, member.tokens_per_block, member.max_batch_size) == (99, 5, 32, 3)
    assert member.incarnation == "run.context-0.2"


# --- who may be routed to, and who is waited for --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "is_waited_for"),
    [
        ("10 generation-0 dies", True),
        ("10 generation-0 freezes\n15 cluster passes", True),
        ("10 generation-0 freezes\n40 cluster passes", True),
        ("10 generation-0 restart", True),
        ("10 generation-0 restart\n11 generation-0 dies", True),
        ("10 cluster roll generation-0", True),
        ("10 generation-0 fails broken\n11 generation-0 dies", True),
        ("10 generation-0 drain", False),
        ("10 generation-0 drain\n11 generation-0 dies", False),
        ("10 generation-0 remove", False),
    ],
)
def test_one_that_leaves_or_is_in_doubt_is_not_routed_to(history: str, is_waited_for: bool) -> None:
    replay = up().play(history)
    assert names(replay) == ["context-0"]
    assert coming(replay) == (["generation"] if is_waited_for else [])


def test_one_that_has_failed_is_not_waited_for() -> None:
    replay = up().play("""
        10 context-0 fails-for-good no such file
        11 context-0 dies
    """)
    assert (names(replay), coming(replay)) == (["generation-0"], [])


def test_one_that_switches_is_waited_for_in_its_new_role() -> None:
    replay = up().play("10 generation-0 switch context")
    assert (names(replay), coming(replay)) == (["context-0"], ["context"])
    replay.play("12 generation-0 switched context")
    assert [(m.name, m.role) for m in routable(replay).members] == [
        ("context-0", "context"),
        ("generation-0", "context"),
    ]
    assert coming(replay) == []


def test_in_a_cluster_that_goes_down_nobody_is_waited_for() -> None:
    replay = up().play("""
        10 generation-0 dies
        10 cluster stop
    """)
    assert routable(replay).coming == {}
    assert names(replay) == ["context-0"], "running streams may need it"


def test_the_table_is_in_order_old_proxies_below_the_new_one_and_numbers_as_numbers() -> None:
    replay = up().play("""
        4 context-10 added
        4 context-2 added
        10 proxy restart
        11 proxy restart
    """)
    order = ["proxy", "proxy.1", "proxy.2", "context-0", "context-2", "context-10", "generation-0"]
    assert [server.name for server in status(replay).servers] == order


def test_a_drain_shows_who_is_waited_for_and_how_long() -> None:
    replay = up().play("""
        10 generation-0 used-by 3
        10 generation-0 drain 30
        14 cluster passes
    """)
    row = next(s for s in status(replay).servers if s.name == "generation-0")
    assert (row.state, row.reason, row.in_use, row.deadline_s) == ("draining", "drains", 3, 26.0)
