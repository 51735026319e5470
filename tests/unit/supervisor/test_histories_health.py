"""Histories: start deadlines, silence, no progress, no tokens, and a clock that stood still."""

from __future__ import annotations

import pytest
from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig


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
    assert len(replay.child("context-0").crashes) == 2


def test_silence_stops_routing_then_kills() -> None:
    replay = up(SupervisionConfig(stall_timeout_s=30)).play("""
        10 context-0 freezes
        16 cluster passes
    """)
    assert replay.times("context-0 stall") == [12]
    assert replay.phases["context-0"] == "stalled"
    replay.advance(41)
    assert replay.log == ["context-0 stall", "context-0 kill"]
    assert replay.times("context-0 kill") == [40]
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


def test_a_kill_that_the_agent_slept_through_gets_its_time_back() -> None:
    """Its news wait to be read."""
    replay = up().play("""
        10 cluster kill
    """)
    replay.now = 200.0
    replay.play("200 cluster wakes 190")
    assert not [line for line in replay.log if "abandon" in line]


# --- progress and tokens --------------------------------------------------------------------------------------------


def test_work_without_progress_stops_routing_then_kills() -> None:
    replay = up(SupervisionConfig(stall_timeout_s=8)).play("""
        10 generation-0 sticks
        14 cluster passes
    """)
    # Its first beat still shows that it got on until then.
    assert replay.times("generation-0 stall") == [12.2]
    assert replay.child("generation-0").reason == "has work and computes nothing"
    replay.advance(25)
    assert replay.times("generation-0 kill") == [19]
    replay.play("26 generation-0 dies killed by SIGKILL")
    assert replay.child("generation-0").reason == "has work and computes nothing for 8 s"


def test_work_with_progress_is_fine_for_ever() -> None:
    assert (
        up()
        .play("""
        10 generation-0 busy
        500 cluster passes
    """)
        .log
        == []
    )


def test_one_that_gets_on_again_is_routed_to_again() -> None:
    replay = up().play("""
        10 generation-0 sticks
        20 generation-0 gets-on
        21 cluster passes
    """)
    assert replay.log == ["generation-0 stall"]
    assert replay.phases["generation-0"] == "ready"


def test_one_missed_token_is_forgiven() -> None:
    replay = up().play("""
        10 context-0 no-canary
        20 context-0 canary
        30 context-0 no-canary
        40 context-0 canary
    """)
    assert replay.log == []


def test_two_missed_tokens_stop_routing_until_one_comes() -> None:
    replay = up(SupervisionConfig(stall_timeout_s=30)).play("""
        40 context-0 no-canary
        70 context-0 no-canary
    """)
    assert replay.log == ["context-0 stall"]
    assert replay.child("context-0").reason == "generates no token when asked to"
    replay.play("90 context-0 no-canary")
    assert replay.phases["context-0"] == "stalled", "beats alone do not help"
    replay.play("95 context-0 canary")
    assert replay.phases["context-0"] == "ready"


def test_no_token_for_too_long_kills() -> None:
    """The time counts from when it was not routed to any more, however rarely it is asked."""
    replay = up(SupervisionConfig(stall_timeout_s=30)).play("""
        40 context-0 no-canary
        70 context-0 no-canary
        120 cluster passes
    """)
    assert replay.times("context-0 kill") == [100]


@pytest.mark.parametrize("cure", ["thaws", "gets-on", "canary"])
def test_all_signs_of_life_have_to_be_back(cure: str) -> None:
    replay = up(SupervisionConfig(stall_timeout_s=100)).play("""
        10 context-0 no-canary
        10 context-0 no-canary
        10 context-0 sticks
        10 context-0 freezes
        20 cluster passes
    """)
    replay.do("context-0", cure)
    replay.advance(25)
    assert replay.phases["context-0"] == "stalled"
    for other in ("thaws", "gets-on", "canary"):
        replay.do("context-0", other)
    replay.advance(27)
    assert replay.phases["context-0"] == "ready"


def test_missed_tokens_before_it_was_ready_do_not_count() -> None:
    replay = Replay().play("""
        1 context-0 no-canary
        2 context-0 no-canary
        3 context-0 ready
    """)
    assert replay.phases["context-0"] == "ready"
