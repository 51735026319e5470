"""Histories as data, replayed into the real reducer and rules with a fake clock."""

from __future__ import annotations

import pytest

from tests.helpers.supervision import Replay, up
from trtdisagg.config.schema import SupervisionConfig
from trtdisagg.protocol.spec import Ready
from trtdisagg.supervisor.events import Exited, Reported, StopAsked


def test_everything_starts_at_once() -> None:
    assert Replay().log == ["proxy spawn", "context-0 spawn", "generation-0 spawn"]


def test_ready_when_all_are_and_the_proxy_knows_them() -> None:
    replay = Replay().play("""
        1 proxy ready
        1 context-0 loads weights
        2 context-0 ready
        3 generation-0 ready
    """)
    assert set(replay.phases.values()) == {"ready"}
    assert not replay.state.all_ready
    replay.play("4 cluster routed context-0 generation-0")
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
        "proxy terminate",
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


def test_a_server_that_keeps_dying_is_given_up_and_the_cluster_with_it() -> None:
    replay = up(SupervisionConfig(max_crashes=3, backoff_s=1))
    for _ in range(3):
        replay.do("context-0", "dies", "killed by SIGSEGV")
        replay.advance(replay.now + 5)
        replay.do("context-0", "ready")
    assert replay.log.count("context-0 spawn") == 2
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 5
    first, *lines = replay.state.stop.reason.splitlines()
    assert first == "context-0 died 3 times within 600 s, the last time: killed by SIGSEGV"
    assert lines == ["    context-0 says goodbye"]


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
    assert replay.state.stop is not None
    assert (replay.state.stop.exit_code, replay.log[0]) == (1, "context-0 give_up")


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


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_not_ready_in_time_at_the_first_start_is_exit_4() -> None:
    replay = Replay(rules=SupervisionConfig(start_timeout_s=20)).play("""
        1  proxy ready
        2  context-0 ready
        5  generation-0 loads weights
        19 cluster passes
    """)
    assert replay.state.stop is None
    replay.advance(21)
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 4
    assert "generation-0 was not ready within 20 s (still loading weights)" in replay.state.stop.reason
    assert replay.phases["generation-0"] == "failed"


def test_not_ready_in_time_at_a_restart_counts_as_a_death() -> None:
    replay = up(SupervisionConfig(start_timeout_s=20)).play("""
        10 context-0 dies
        40 cluster passes
    """)
    assert replay.log == ["context-0 back_off", "context-0 spawn", "context-0 kill"]
    replay.play("""
        41 context-0 dies killed by SIGKILL
        50 cluster passes
    """)
    assert replay.log[3:] == ["context-0 back_off", "context-0 spawn"]
    assert len(replay.child("context-0").deaths) == 2


def test_silence_stops_routing_then_kills() -> None:
    replay = up().play("""
        10 context-0 freezes
        16 cluster passes
    """)
    assert replay.log == ["context-0 stall"]
    assert replay.phases["context-0"] == "stalled"
    replay.advance(41)
    assert replay.log == ["context-0 stall", "context-0 kill"]
    replay.play("42 context-0 dies killed by SIGKILL")
    assert replay.child("context-0").reason == "no sign of life for 30 s"
    assert replay.phases["context-0"] == "backoff"


def test_one_that_beats_again_is_routed_to_again() -> None:
    replay = up().play("""
        10 context-0 freezes
        20 context-0 thaws
        22 cluster passes
    """)
    assert replay.log == ["context-0 stall"]
    assert replay.phases["context-0"] == "ready"


def test_time_that_the_agent_slept_through_counts_against_nobody() -> None:
    """Without it, everything would be killed when a stopped agent goes on."""
    replay = up()
    replay.frozen = {"proxy", "context-0", "generation-0"}
    replay.now = 200.0
    replay.play("200 cluster wakes 190")
    assert replay.log == []
    assert set(replay.phases.values()) == {"ready"}


def test_a_start_that_the_agent_slept_through_gets_its_time_back() -> None:
    replay = Replay(rules=SupervisionConfig(start_timeout_s=20))
    replay.now = 100.0
    replay.play("""
        100 cluster wakes 95
        110 cluster passes
    """)
    assert replay.state.stop is None


# --- the end --------------------------------------------------------------------------------------------------------


def test_the_proxy_drains_first_then_the_servers_end() -> None:
    replay = up().play("10 cluster stop")
    assert replay.log == ["proxy terminate"]
    assert replay.phases == {"proxy": "draining", "context-0": "ready", "generation-0": "ready"}
    replay.play("""
        15 proxy dies exit status 0
        16 context-0 dies exit status 0
        17 generation-0 dies killed by SIGSEGV
    """)
    assert replay.log[1:] == ["context-0 terminate", "generation-0 terminate", "cluster finish"]
    assert set(replay.phases.values()) == {"stopped"}, "asked to end, whatever the status"
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 130


def test_deadlines_of_the_stop_ladder() -> None:
    replay = up(SupervisionConfig(drain_timeout_s=30, kill_timeout_s=10)).play("""
        10 cluster stop
        41 proxy dies killed by SIGKILL
        52 cluster passes
    """)
    assert replay.times("proxy terminate") == [10]
    assert replay.times("proxy kill") == [40]
    assert replay.times("context-0 terminate") == [41]
    assert replay.times("context-0 kill") == [51]


def test_servers_without_a_proxy_drain_themselves() -> None:
    replay = Replay(("context-0",), SupervisionConfig(drain_timeout_s=30, kill_timeout_s=10)).play("""
        1 context-0 ready
        2 cluster stop
        50 cluster passes
    """)
    assert replay.times("context-0 terminate") == [2]
    assert replay.times("context-0 kill") == [42]


def test_the_second_signal_kills_all_at_once() -> None:
    replay = up().play("""
        10 cluster stop
        11 cluster kill
    """)
    assert replay.log == ["proxy terminate", "proxy kill", "context-0 kill", "generation-0 kill"]


def test_a_later_stop_can_only_hurry() -> None:
    replay = up().play("10 cluster stop")
    replay.handle(StopAsked(at=10, reason="down", exit_code=0, timeout_s=5))
    replay.handle(StopAsked(at=10, reason="down", exit_code=0, timeout_s=60))
    replay.advance(20)
    assert replay.times("proxy kill") == [15]
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 130


def test_what_waits_for_its_restart_is_not_started_any_more() -> None:
    replay = up().play("""
        10 context-0 dies
        10 cluster stop
        11 proxy dies
        12 generation-0 dies
        20 cluster passes
    """)
    assert "context-0 spawn" not in replay.log
    assert replay.log[-1] == "cluster finish"


def test_one_that_even_sigkill_does_not_end_is_left_alone() -> None:
    replay = up().play("""
        10 cluster kill
        11 proxy dies
        11 context-0 dies
        40 cluster passes
    """)
    assert replay.log[-2:] == ["generation-0 abandon", "cluster finish"]
    assert replay.phases["generation-0"] == "failed"


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


@pytest.mark.parametrize("phase", ["ready", "draining"])
def test_a_dead_proxy_has_no_members(phase: str) -> None:
    replay = up()
    if phase == "draining":
        replay.play("5 cluster stop")
    replay.play("10 proxy dies")
    assert replay.state.routed == frozenset()
