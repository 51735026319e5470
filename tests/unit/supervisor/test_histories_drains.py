"""Histories: one server leaves, to be started again, to stay stopped, or to be forgotten."""

from __future__ import annotations

import pytest
from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.reports import Loading
from trtdisagg.supervisor.events import LeaveAsked


@pytest.mark.parametrize(
    ("verb", "phase_after"), [("drain", "stopped"), ("remove", None), ("restart", "starting"), ("switch", "starting")]
)
def test_what_becomes_of_one_that_has_left(verb: str, phase_after: str | None) -> None:
    replay = up().play(f"10 generation-0 {verb} 30" if verb != "switch" else "10 generation-0 switch context")
    replay.play("11 generation-0 dies killed by SIGSEGV")
    assert replay.phases.get("generation-0") == phase_after
    assert ("generation-0 spawn" in replay.log) == (phase_after == "starting")
    assert "generation-0 back_off" not in replay.log, "it was asked to"


def test_one_that_nobody_counts_on_is_asked_to_end_at_once() -> None:
    replay = up().play("10 generation-0 drain")
    assert replay.log == ["generation-0 terminate"]
    assert replay.child("generation-0").phase == "draining"
    assert not replay.child("generation-0").is_ready_server


def test_one_that_is_used_is_asked_to_end_when_it_is_not_any_more() -> None:
    replay = up().play("""
        10 generation-0 used-by 2
        11 generation-0 drain
        15 generation-0 used-by 1
        20 generation-0 passes
    """)
    assert replay.log == []
    replay.play("21 generation-0 used-by 0")
    assert replay.times("generation-0 terminate") == [21]


def test_one_that_a_proxy_still_lists_is_not_asked_to_end() -> None:
    replay = up()
    replay.is_told = False
    replay.play("""
        10 generation-0 drain
        15 generation-0 passes
    """)
    assert replay.log == []
    replay.is_told = True
    replay.play("16 cluster passes")
    assert replay.times("generation-0 terminate") == [16]


def test_deadlines_of_the_ladder() -> None:
    replay = up(SupervisionConfig(kill_timeout_s=10)).play("""
        10 generation-0 used-by 1
        10 generation-0 drain 20
        60 generation-0 passes
    """)
    assert replay.times("generation-0 terminate") == replay.times("generation-0 hurry") == [30]
    assert replay.times("generation-0 kill") == [40]


def test_one_that_finishes_what_it_has_is_given_until_the_deadline() -> None:
    replay = up(SupervisionConfig(kill_timeout_s=10)).play("""
        10 generation-0 drain 20
        60 generation-0 passes
    """)
    assert replay.times("generation-0 terminate") == [10]
    assert replay.times("generation-0 hurry") == [30]
    assert replay.times("generation-0 kill") == [40]


def test_one_that_was_not_ready_has_nothing_to_finish() -> None:
    replay = Replay(rules=SupervisionConfig(kill_timeout_s=10)).play("""
        1 proxy ready
        2 context-0 loads weights
        3 context-0 drain 600
        60 cluster passes
    """)
    assert replay.times("context-0 terminate") == [3]
    assert replay.times("context-0 hurry") == [13]
    assert replay.times("context-0 kill") == [23]


def test_one_that_gets_ready_while_it_leaves_is_not_routed_to() -> None:
    replay = Replay().play("""
        1 context-0 drain
        2 context-0 ready
        3 context-0 beats
    """)
    assert replay.phases["context-0"] == "draining"


def test_a_later_wish_changes_the_goal() -> None:
    replay = up().play("""
        10 generation-0 used-by 1
        10 generation-0 remove
        11 generation-0 restart
        12 generation-0 dies
    """)
    assert replay.log[-1] == "generation-0 spawn"


@pytest.mark.parametrize(("first_s", "second_s", "cut_at"), [(60, 5, 17), (5, 60, 15)])
def test_a_later_wish_may_only_bring_the_deadline_nearer(first_s: int, second_s: int, cut_at: float) -> None:
    replay = up().play(f"""
        10 generation-0 used-by 1
        10 generation-0 drain {first_s}
        12 generation-0 drain {second_s}
        80 cluster passes
    """)
    assert replay.times("generation-0 hurry") == [cut_at]


@pytest.mark.parametrize(("verb", "phase"), [("drain", "stopped"), ("remove", None), ("restart", "starting")])
def test_one_that_does_not_live_is_at_its_goal_at_once(verb: str, phase: str | None) -> None:
    replay = up().play("""
        10 context-0 dies
    """)
    replay.do("context-0", verb)
    assert replay.phases.get("context-0") == phase
    replay.advance(60)
    assert replay.log.count("context-0 spawn") == (verb == "restart")


@pytest.mark.parametrize("verb", ["added", "restart"])
def test_one_that_was_drained_starts_again_only_when_asked_to(verb: str) -> None:
    replay = up().play("""
        10 context-0 drain
        11 context-0 ends
        100 cluster passes
    """)
    assert (replay.phases["context-0"], replay.state.all_ready) == ("stopped", True)
    assert "context-0 spawn" not in replay.log
    replay.do("context-0", verb)
    assert replay.log[-1] == "context-0 spawn"


def test_a_frozen_one_that_leaves_is_killed_at_its_deadline() -> None:
    replay = up(SupervisionConfig(kill_timeout_s=10)).play("""
        10 generation-0 used-by 1
        10 generation-0 freezes
        15 generation-0 remove 20
        60 cluster passes
    """)
    assert replay.times("generation-0 kill") == [45]


def test_one_that_is_being_killed_is_shown_as_such_whatever_is_wished_for() -> None:
    replay = up(SupervisionConfig(stall_timeout_s=5)).play("""
        10 generation-0 freezes
        16 generation-0 drain
    """)
    child = replay.child("generation-0")
    assert (child.phase, child.reason) == ("stopping", "no sign of life for 5 s")
    replay.play("17 generation-0 dies killed by SIGKILL")
    assert replay.phases["generation-0"] == "stopped"


def test_a_wish_about_nobody_changes_nothing() -> None:
    replay = up()
    before = replay.state
    replay.handle(LeaveAsked(at=4, name="context-7", then="gone", timeout_s=1, reason="drains"))
    assert replay.state.children == before.children


# --- the proxy ------------------------------------------------------------------------------------------------------


def test_a_proxy_is_replaced_before_it_ends() -> None:
    replay = up().play("10 proxy restart")
    assert replay.log == ["proxy spawn"]
    assert replay.phases == {"proxy": "starting", "proxy.1": "draining", "context-0": "ready", "generation-0": "ready"}
    assert replay.child("proxy.1").incarnation == "run.proxy.1"
    replay.play("11 proxy loads sockets")
    assert "proxy.1 terminate" not in replay.log
    replay.play("12 proxy ready")
    assert replay.times("proxy.1 terminate") == [12]
    replay.play("20 proxy.1 ends")
    assert list(replay.phases) == ["proxy", "context-0", "generation-0"]
    assert replay.child("proxy").incarnation == "run.proxy.2"
    assert replay.state.all_ready


def test_what_an_old_proxy_says_is_not_taken_for_its_successors_word() -> None:
    replay = up().play("10 proxy restart")
    replay.report("proxy.1", Loading(stage="nonsense"))
    replay.play("11 proxy.1 dies")
    assert replay.phases == {"proxy": "starting", "context-0": "ready", "generation-0": "ready"}


def test_an_old_proxy_holds_on_to_the_servers_of_its_streams() -> None:
    replay = up().play("""
        10 proxy restart
        11 proxy ready
        12 generation-0 used-by 1
        13 generation-0 restart
        15 proxy.1 ends
        16 cluster passes
    """)
    assert "generation-0 terminate" not in replay.log, "the new one counts on it too"
    replay.play("17 generation-0 used-by 0")
    assert replay.log[-1] == "generation-0 terminate"


def test_a_proxy_whose_successor_does_not_come_ends_at_its_deadline() -> None:
    replay = up().play("""
        10 proxy restart 20
        60 cluster passes
    """)
    assert replay.times("proxy.1 terminate") == [30]


def test_a_proxy_that_is_replaced_twice() -> None:
    replay = up().play("""
        10 proxy restart
        11 proxy restart
    """)
    assert [name for name in replay.phases if name.startswith("proxy")] == ["proxy", "proxy.1", "proxy.2"]
    replay.play("12 proxy ready")
    assert replay.times("proxy.1 terminate") == [12]
    assert replay.times("proxy.2 terminate") == [11], "it was not ready: nobody uses it"


def test_an_old_proxy_takes_no_wish() -> None:
    replay = up().play("""
        10 proxy restart
        11 proxy.1 restart
        12 proxy.1 drain
    """)
    assert replay.phases["proxy.1"] == "draining"
    assert "proxy.1.1" not in replay.phases


# --- several processes of one proxy ---------------------------------------------------------------------------------

WORKERS = ("proxy-0", "proxy-1", "context-0", "generation-0")
UP = """
    1 proxy-0 ready
    1 proxy-1 ready
    2 context-0 ready
    2 generation-0 ready
"""


def test_each_process_of_a_proxy_has_a_successor_of_its_own() -> None:
    replay = Replay(WORKERS).play(UP).play("5 proxy-1 restart")
    assert replay.child("proxy-1.1").incarnation == "run.proxy-1.1"
    replay.play("6 cluster passes")
    assert replay.child("proxy-1.1").term_at is None, "not before its own successor is ready, whoever else is"
    replay.play("7 proxy-1 ready")
    assert replay.child("proxy-1.1").term_at == 7
    replay.play("8 proxy-1.1 ends")
    assert replay.phases == dict.fromkeys(WORKERS, "ready")


def test_one_that_fails_for_good_leaves_the_others() -> None:
    replay = Replay(WORKERS).play(UP).play("5 proxy-1 fails-for-good no").play("5 proxy-1 dies")
    assert replay.state.stop is None
    assert replay.phases["proxy-1"] == "failed"
    replay.play("6 proxy-0 fails-for-good no").play("6 proxy-0 dies")
    assert replay.state.stop is not None, "the last one"


def test_one_that_is_not_wanted_any_more_ends_when_another_takes_clients_in() -> None:
    replay = (
        Replay(("proxy", "context-0", "generation-0")).play("1 proxy ready").play(UP.partition("1 proxy-1 ready")[2])
    )
    replay.play("5 proxy-0 added").play("5 proxy-1 added").play("5 proxy remove")
    assert replay.child("proxy").term_at is None
    replay.play("6 proxy-1 ready")
    assert replay.child("proxy").term_at == 6
