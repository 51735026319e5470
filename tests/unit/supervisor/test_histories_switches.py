"""Histories: a server goes on in another role."""

from __future__ import annotations

import pytest
from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.supervisor.events import Switch


def switching() -> Replay:
    """generation-0 was idle, and has been asked at 11 s to be a context server."""
    return up(SupervisionConfig(kill_timeout_s=10)).play("""
        10 generation-0 switch context
        11 cluster passes
    """)


def test_it_drains_takes_its_role_and_is_routed_to_in_it() -> None:
    replay = switching()
    assert replay.times("generation-0 switch") == [11]
    (command,) = [a for a in replay.actions if isinstance(a, Switch)]
    assert command.role == "context"
    assert replay.phases["generation-0"] == "draining"
    replay.play("12 generation-0 switched context")
    child = replay.child("generation-0")
    assert (child.phase, child.role, child.leaving, child.incarnation) == (
        "ready",
        "context",
        None,
        "run.generation-0.1",
    )
    assert replay.log == ["generation-0 switch"], "the same process"


def test_a_beat_from_before_it_left_does_not_show_that_it_is_idle() -> None:
    replay = up().play("10 generation-0 switch context")
    assert replay.log == []
    replay.play("10.5 generation-0 beats")
    assert replay.log == ["generation-0 switch"]


def test_nor_does_a_clock_that_stood_still() -> None:
    replay = up()
    replay.frozen = {"generation-0"}
    replay.play("10 generation-0 switch context").play("11 cluster wakes 1")
    assert "generation-0 switch" not in replay.log


def test_one_that_is_busy_or_used_is_waited_for() -> None:
    replay = up().play("""
        9 generation-0 busy
        9 generation-0 used-by 1
        10 generation-0 switch context
        15 generation-0 idle
        19 generation-0 busy
        20 generation-0 used-by 0
        25 cluster passes
    """)
    assert replay.log == []
    replay.play("26 generation-0 idle").play("28 cluster passes")
    assert replay.log == ["generation-0 switch"]


def test_one_that_does_not_get_free_in_time_stays_what_it_is() -> None:
    replay = up().play("""
        9 generation-0 used-by 1
        10 generation-0 switch context
        50 cluster passes
    """)
    assert replay.times("generation-0 stay") == [40]
    child = replay.child("generation-0")
    assert (child.phase, child.role, child.leaving) == ("ready", "generation", None)


def test_one_that_froze_meanwhile_stays_and_is_not_routed_to() -> None:
    replay = up().play("""
        9 generation-0 freezes
        10 generation-0 switch context
        41 cluster passes
    """)
    assert replay.log[:2] == ["generation-0 stay", "generation-0 stall"]
    assert replay.times("generation-0 stay") == replay.times("generation-0 stall")


def test_one_that_does_not_answer_is_killed_and_starts_in_its_new_role() -> None:
    replay = switching().play("30 cluster passes")
    assert replay.times("generation-0 kill") == [21]
    replay.play("31 generation-0 dies killed by SIGKILL")
    assert (replay.log[-1], replay.child("generation-0").role) == ("generation-0 spawn", "context")


def test_a_child_has_the_role_that_it_says_it_has() -> None:
    """One that started with a spec from before is what it was."""
    replay = switching().play("""
        12 generation-0 dies
        13 generation-0 switched generation
    """)
    assert (replay.phases["generation-0"], replay.child("generation-0").role) == ("ready", "generation")


@pytest.mark.parametrize(("verb", "phase"), [("drain", "stopped"), ("restart", "starting")])
def test_a_later_wish_goes_first(verb: str, phase: str) -> None:
    replay = switching()
    replay.do("generation-0", verb)
    assert replay.log[-1] == "generation-0 terminate"
    replay.play("12 generation-0 switched context")
    assert replay.phases["generation-0"] == "draining"
    replay.play("13 generation-0 ends")
    assert replay.phases["generation-0"] == phase


def test_back_again_before_it_got_there() -> None:
    replay = switching().play("""
        12 generation-0 switch generation
        13 generation-0 switched context
        15 cluster passes
    """)
    assert replay.log == ["generation-0 switch", "generation-0 switch"]
    replay.play("16 generation-0 switched generation")
    assert (replay.phases["generation-0"], replay.child("generation-0").role) == ("ready", "generation")


def test_one_that_is_not_ready_starts_again_in_its_new_role() -> None:
    replay = Replay().play("""
        1 generation-0 switch context
        2 generation-0 ends
    """)
    assert replay.log[-2:] == ["generation-0 terminate", "generation-0 spawn"]
    assert replay.child("generation-0").role == "context"


def test_one_that_does_not_live_starts_in_its_new_role() -> None:
    replay = up().play("""
        10 generation-0 dies
        10 generation-0 switch context
        15 cluster passes
    """)
    assert (replay.log[-1], replay.child("generation-0").role) == ("generation-0 spawn", "context")
