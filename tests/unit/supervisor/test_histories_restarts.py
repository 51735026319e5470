"""Histories: children start, die, and start again or are given up."""

from __future__ import annotations

import pytest
from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.reports import Ready
from trtdisagg.supervisor.events import Exited, Reported, Told


def test_everything_starts_at_once() -> None:
    assert Replay().log == ["proxy spawn", "context-0 spawn", "generation-0 spawn"]


def test_ready_when_all_are_and_the_proxy_knows_them() -> None:
    replay = Replay()
    replay.is_told = False
    replay.play("""
        1 proxy ready
        1 context-0 loads weights
        2 context-0 ready
        3 generation-0 ready
    """)
    assert set(replay.phases.values()) == {"ready"}
    assert not replay.state.all_ready
    replay.is_told = True
    replay.play("4 cluster passes")
    assert replay.state.all_ready
    assert replay.state.ready_at == 4


def test_ready_without_a_proxy() -> None:
    assert Replay(("context-0",)).play("1 context-0 ready").state.ready_at == 1


def test_stages_of_loading_are_shown() -> None:
    child = Replay().play("1 context-0 loads weights").child("context-0")
    assert (child.phase, child.reason) == ("loading", "weights")


# --- deaths ---------------------------------------------------------------------------------------------------------


def test_death_before_the_first_readiness_takes_the_cluster_down() -> None:
    replay = Replay().play("""
        1 proxy ready
        2 context-0 dies killed by SIGSEGV
    """)
    assert replay.phases["context-0"] == "failed"
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 1
    assert replay.state.stop.reason == "context-0 did not start: killed by SIGSEGV\n    context-0 says goodbye"
    replay.play("""
        3 proxy dies exit status 0
        4 generation-0 dies exit status 0
    """)
    assert replay.log[3:] == [
        "context-0 give_up",
        "proxy leave",
        "proxy terminate",
        "generation-0 leave",
        "generation-0 terminate",
        "cluster finish",
    ]
    assert replay.phases == {"proxy": "stopped", "context-0": "failed", "generation-0": "stopped"}


def test_what_a_child_reported_is_the_reason() -> None:
    replay = Replay().play("""
        1 context-0 fails the model has no tokenizer
        2 context-0 dies
    """)
    assert replay.child("context-0").reason == "context-0 did not start: the model has no tokenizer"


def test_a_server_that_died_is_started_again_after_a_pause() -> None:
    replay = up().play("""
        10 context-0 dies killed by SIGKILL
        12 context-0 passes
    """)
    assert replay.log == ["context-0 back_off", "context-0 spawn"]
    (spawned_at,) = replay.times("context-0 spawn")
    assert 10.5 <= spawned_at <= 11.0
    assert replay.phases["context-0"] == "starting"
    assert replay.child("context-0").reason == "killed by SIGKILL"
    replay.play("14 context-0 ready")
    assert replay.child("context-0").reason is None
    assert replay.child("context-0").num_starts == 2


def test_two_that_die_together_come_back_at_different_times() -> None:
    replay = up().play("""
        10 context-0 dies
        10 generation-0 dies
        12 cluster passes
    """)
    assert replay.times("context-0 spawn") != replay.times("generation-0 spawn")


def test_the_pause_doubles_up_to_its_limit() -> None:
    rules = SupervisionConfig(backoff_s=1, max_backoff_s=4, max_crashes=9)
    replay = up(rules)
    pauses = []
    for _ in range(5):
        replay.do("context-0", "dies")
        died_at = replay.now
        replay.advance(died_at + 5)
        pauses.append(replay.times("context-0 spawn")[-1] - died_at)
        replay.do("context-0", "ready")
    for pause_s, longest_s in zip(pauses, [1, 2, 4, 4, 4], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


def _dies_often(name: str) -> Replay:
    replay = up(SupervisionConfig(max_crashes=3, backoff_s=1))
    for _ in range(3):
        replay.do(name, "dies", "killed by SIGSEGV")
        replay.advance(replay.now + 5)
        if replay.child(name).lives:
            replay.do(name, "ready")
    assert replay.log.count(f"{name} spawn") == 2
    return replay


@pytest.mark.parametrize("name", ["generation-0", "proxy"])
def test_one_that_keeps_dying_and_is_needed_takes_the_cluster_with_it(name: str) -> None:
    stop = _dies_often(name).state.stop
    assert stop is not None
    assert stop.exit_code == 5
    first, *lines = stop.reason.splitlines()
    assert first == f"{name} died 3 times within 600 s, the last time: killed by SIGSEGV"
    assert lines == [f"    {name} says goodbye"]


def test_one_that_keeps_dying_and_is_not_needed_has_failed() -> None:
    replay = _dies_often("context-0")
    assert replay.state.stop is None
    assert replay.phases == {"proxy": "ready", "context-0": "failed", "generation-0": "ready"}
    replay.advance(1000)
    assert replay.log.count("context-0 spawn") == 2


@pytest.mark.parametrize("verb", ["added", "restart", "roll"])
def test_one_that_has_failed_starts_afresh_when_asked_to(verb: str) -> None:
    replay = _dies_often("context-0")
    replay.do("context-0", verb, "context-0" if verb == "roll" else "")
    assert (replay.phases["context-0"], replay.child("context-0").crashes) == ("starting", ())
    replay.play("21 context-0 ready")
    replay.do("context-0", "dies")
    assert replay.phases["context-0"] == "backoff", "what was before does not count"


def test_the_cluster_ends_with_the_last_that_generates() -> None:
    """One that is about to go does not keep it up."""
    replay = up(SupervisionConfig(max_crashes=1)).play("""
        10 generation-1 added
        11 generation-1 ready
        12 generation-1 used-by 1
        12 generation-1 remove
        13 generation-0 dies
    """)
    assert replay.state.stop is not None


def test_crashes_that_do_not_count_any_more_are_forgotten() -> None:
    replay = up(SupervisionConfig(max_crashes=2, crash_window_s=60))
    for _ in range(4):
        replay.do("context-0", "dies")
        replay.advance(replay.now + 5)
        replay.do("context-0", "ready")
        replay.advance(replay.now + 60)
    assert len(replay.child("context-0").crashes) == 1


def test_deaths_far_apart_are_forgiven() -> None:
    replay = up(SupervisionConfig(max_crashes=2, crash_window_s=60))
    for _ in range(5):
        replay.do("context-0", "dies")
        replay.advance(replay.now + 5)
        replay.do("context-0", "ready")
        replay.advance(replay.now + 60)
    assert replay.state.stop is None
    assert replay.log.count("context-0 spawn") == 5


def test_no_restarts_are_tried_where_none_are_allowed() -> None:
    replay = up(SupervisionConfig(max_crashes=1)).play("10 generation-0 dies")
    assert replay.log[0] == "generation-0 give_up"
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 5
    assert replay.state.stop.reason.startswith("generation-0 died once: exit status 1")


def test_a_failure_that_a_restart_cannot_help_is_not_restarted() -> None:
    replay = up().play("""
        10 context-0 fails-for-good the file is gone
        10 context-0 dies
    """)
    assert replay.log == ["context-0 give_up"]
    assert replay.child("context-0").reason == "context-0 cannot go on: the file is gone"


def test_one_that_says_it_failed_and_stays_is_killed() -> None:
    replay = up().play("""
        10 context-0 fails out of memory
        19 context-0 passes
    """)
    assert replay.log == []
    replay.advance(21)
    assert replay.log == ["context-0 kill"]
    replay.play("21 context-0 dies killed by SIGKILL")
    assert replay.child("context-0").reason == "out of memory"


def test_a_restart_waits_for_the_end_of_the_one_before() -> None:
    replay = up().play("""
        10 context-0 freezes
        60 cluster passes
    """)
    assert "context-0 spawn" not in replay.log


def test_words_of_a_former_incarnation_are_not_heard() -> None:
    replay = up().play("""
        10 context-0 dies
        12 cluster passes
    """)
    late = Reported(at=12, name="context-0", incarnation="run.context-0.1", report=Ready(host="h", port=1))
    replay.handle(late)
    replay.handle(Exited(at=12, name="context-0", incarnation="run.context-0.1", how="exit status 1"))
    assert replay.phases["context-0"] == "starting"
    assert replay.child("context-0").incarnation == "run.context-0.2"


def test_a_dead_proxy_holds_nobody() -> None:
    replay = up()
    assert replay.state.is_held(replay.child("context-0"))
    replay.play("10 proxy dies")
    assert replay.state.holders == {}
    members = frozenset(["run.context-0.1"])
    replay.handle(Told(at=10, holder="run.proxy.1", members=members, in_use={"run.context-0.1": 3}))
    assert not replay.state.is_held(replay.child("context-0")), "a last word is not heard"


def test_no_incarnation_comes_twice() -> None:
    """Also when a name was removed and is given again."""
    replay = up().play("""
        10 context-0 remove
        11 context-0 dies
    """)
    assert "context-0" not in replay.phases
    replay.play("12 context-0 added")
    assert replay.child("context-0").incarnation == "run.context-0.2"
