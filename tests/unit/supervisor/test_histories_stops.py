"""Histories: the cluster goes down."""

from __future__ import annotations

from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.supervisor.events import StopAsked


def test_the_proxy_drains_first_then_the_servers_end() -> None:
    replay = up().play("10 cluster stop")
    assert replay.log == ["proxy leave", "proxy terminate"]
    assert replay.phases == {"proxy": "draining", "context-0": "ready", "generation-0": "ready"}
    replay.play("""
        15 proxy dies exit status 0
        15.5 context-0 dies exit status 0
        17 generation-0 dies killed by SIGSEGV
    """)
    assert [line for line in replay.log[2:] if "leave" not in line] == [
        "context-0 terminate",
        "generation-0 terminate",
        "generation-0 hurry",
        "cluster finish",
    ]
    assert set(replay.phases.values()) == {"stopped"}, "asked to end, whatever the status"
    assert replay.state.stop is not None
    assert replay.state.stop.exit_code == 130


def test_deadlines_of_the_stop_ladder() -> None:
    replay = up(SupervisionConfig(drain_timeout_s=30, kill_timeout_s=10)).play("""
        10 cluster stop
        51 proxy dies killed by SIGKILL
        65 cluster passes
    """)
    assert replay.times("proxy terminate") == [10]
    assert replay.times("proxy hurry") == [40]
    assert replay.times("proxy kill") == [50]
    assert replay.times("context-0 terminate") == [51]
    assert replay.times("context-0 hurry") == [52], "nobody comes for what it holds"
    assert replay.times("context-0 kill") == [62]


def test_servers_without_a_proxy_drain_themselves() -> None:
    replay = Replay(("context-0",), SupervisionConfig(drain_timeout_s=30, kill_timeout_s=10)).play("""
        1 context-0 ready
        2 cluster stop
        50 cluster passes
    """)
    assert replay.times("context-0 terminate") == [2]
    assert replay.times("context-0 hurry") == [32]
    assert replay.times("context-0 kill") == [42]


def test_the_second_signal_kills_all_at_once() -> None:
    replay = up().play("""
        10 cluster stop
        11 cluster kill
    """)
    assert replay.log[:2] == ["proxy leave", "proxy terminate"]
    assert replay.times("proxy kill") == replay.times("context-0 kill") == replay.times("generation-0 kill") == [11]


def test_a_later_stop_can_only_hurry() -> None:
    replay = up().play("10 cluster stop")
    replay.handle(StopAsked(at=10, reason="down", exit_code=0, timeout_s=5))
    replay.handle(StopAsked(at=10, reason="down", exit_code=0, timeout_s=60))
    replay.advance(20)
    assert replay.times("proxy hurry") == [15]
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


def test_one_that_waits_for_its_drain_is_hurried_by_the_stop() -> None:
    replay = up(SupervisionConfig(drain_timeout_s=30, kill_timeout_s=10)).play("""
        10 generation-0 used-by 1
        10 generation-0 drain 600
        11 cluster stop
        12 proxy ends
        12 context-0 ends
        30 cluster passes
    """)
    assert replay.times("generation-0 terminate") == [12]
    assert replay.times("generation-0 hurry") == [13]
    assert replay.times("generation-0 kill") == [23]


def test_a_cluster_that_goes_down_takes_no_other_wish() -> None:
    replay = up().play("""
        10 cluster stop
        11 context-1 added
        11 context-0 restart
        11 generation-0 switch context
        11 proxy restart
        11 cluster roll context-0
        12 proxy ends
        13 context-0 ends
        13 generation-0 ends
    """)
    assert replay.state.finished
    assert set(replay.phases) == {"proxy", "context-0", "generation-0"}
    assert "spawn" not in " ".join(replay.log)


def test_a_roll_ends_with_the_cluster() -> None:
    replay = up().play("""
        10 cluster roll context-0 generation-0
        11 cluster stop
        12 proxy ends
        13 context-0 ends
        13 generation-0 ends
    """)
    assert replay.state.finished
    assert replay.state.roll is None


def test_one_that_hangs_in_the_kernel_does_not_take_the_others_along() -> None:
    replay = up(SupervisionConfig(stall_timeout_s=5)).play("""
        10 context-0 freezes
        60 cluster passes
    """)
    assert replay.log == ["context-0 stall", "context-0 kill", "context-0 abandon"]
    assert replay.phases["context-0"] == "failed"
    assert replay.state.stop is None
