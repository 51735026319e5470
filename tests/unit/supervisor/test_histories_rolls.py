"""Histories: children restarted one after the other."""

from __future__ import annotations

import pytest
from helpers.supervision import Replay, up

from trtdisagg.config.supervisor_keys import SupervisionConfig


def rolling() -> Replay:
    """Both servers are to be restarted; the first is ready again at 12 s."""
    return up(SupervisionConfig(max_crashes=2)).play("""
        10 cluster roll context-0 generation-0
        11 context-0 ends
        12 context-0 ready
    """)


def test_the_next_only_when_the_one_before_is_up_again() -> None:
    replay = up().play("10 cluster roll context-0 generation-0")
    assert replay.phases == {"proxy": "ready", "context-0": "draining", "generation-0": "ready"}
    replay.play("11 context-0 ends")
    assert replay.phases["generation-0"] == "ready"
    replay.play("12 context-0 ready")
    assert replay.phases == {"proxy": "ready", "context-0": "ready", "generation-0": "draining"}
    replay.play("""
        13 generation-0 ends
        14 generation-0 ready
    """)
    assert replay.state.roll is None
    assert replay.state.all_ready
    assert [line for line in replay.log if "spawn" in line] == ["context-0 spawn", "generation-0 spawn"]


def test_up_means_that_the_proxy_knows_it() -> None:
    replay = up().play("""
        10 cluster roll context-0 generation-0
        11 context-0 ends
    """)
    replay.is_told = False
    replay.play("12 context-0 ready")
    assert replay.phases["generation-0"] == "ready"
    replay.is_told = True
    replay.play("13 cluster passes")
    assert replay.phases["generation-0"] == "draining"


def test_one_that_fails_holds_the_others_back() -> None:
    replay = up().play("""
        10 cluster roll context-0 generation-0
        11 context-0 ends
        12 context-0 fails-for-good no such file
        13 context-0 dies
        50 cluster passes
    """)
    assert replay.phases == {"proxy": "ready", "context-0": "failed", "generation-0": "ready"}
    assert replay.state.roll is None
    assert replay.log[-1] == "cluster roll_ended"


def test_one_that_dies_on_the_way_gets_its_chances() -> None:
    replay = up().play("""
        10 cluster roll context-0 generation-0
        11 context-0 ends
        12 context-0 dies
        20 context-0 ready
    """)
    assert replay.phases == {"proxy": "ready", "context-0": "ready", "generation-0": "draining"}


@pytest.mark.parametrize("phase", ["backoff", "stopped", "failed", "starting"])
def test_one_that_is_not_up_is_started_when_its_turn_comes(phase: str) -> None:
    replay = up()
    match phase:
        case "backoff":
            replay.play("10 context-0 dies")
        case "stopped":
            replay.play("10 context-0 drain").play("10 context-0 ends")
        case "failed":
            replay.play("10 context-0 fails-for-good x").play("10 context-0 dies")
        case "starting":
            replay.play("9 context-0 dies").play("10 cluster passes")
    assert replay.phases["context-0"] == phase
    replay.play("""
        10 cluster roll context-0 generation-0
        10.2 context-0 ends
        11 context-0 ready
    """)
    assert replay.phases == {"proxy": "ready", "context-0": "ready", "generation-0": "draining"}


@pytest.mark.parametrize("verb", ["drain", "remove"])
@pytest.mark.parametrize("name", ["context-0", "generation-0"])
def test_one_that_is_drained_meanwhile_is_left_out(verb: str, name: str) -> None:
    """Whether it is its turn or not."""
    replay = up().play(f"""
        10 cluster roll context-0 generation-0
        10 {name} {verb}
        11 context-0 ends
        12 context-0 ready
        13 generation-0 ends
        14 generation-0 ready
    """)
    assert replay.state.roll is None
    assert f"{name} spawn" not in replay.log


def test_one_that_is_not_there_is_left_out() -> None:
    replay = up().play("10 cluster roll context-7 generation-0")
    assert replay.phases["generation-0"] == "draining"


def test_a_second_roll_goes_on_where_the_first_ends() -> None:
    replay = rolling().play("13 cluster roll context-0 generation-0")
    assert replay.state.roll is not None
    assert replay.state.roll.names == ("generation-0", "context-0"), "the first has started with what was then"
    replay.play("""
        14 generation-0 ends
        15 generation-0 ready
    """)
    assert replay.phases["context-0"] == "draining"


def test_one_that_has_started_again_and_is_not_up_yet_is_rolled_once_more() -> None:
    replay = up().play("""
        10 cluster roll context-0
        11 context-0 ends
        12 cluster roll context-0
        13 context-0 ready
    """)
    assert replay.phases["context-0"] == "draining"


def test_one_that_does_not_restart_ends_the_roll() -> None:
    """Somebody wished for something else of it meanwhile."""
    replay = up().play("""
        10 context-0 used-by 1
        10 cluster roll context-0 generation-0
        11 context-0 switch generation
        60 cluster passes
    """)
    assert replay.log == ["context-0 leave", "context-0 stay", "cluster roll_ended"]


def test_the_proxy_is_rolled_without_a_gap() -> None:
    replay = up().play("10 cluster roll context-0 proxy")
    replay.play("""
        11 context-0 ends
        12 context-0 ready
    """)
    assert (replay.phases["proxy"], replay.phases["proxy.1"]) == ("starting", "draining")
    replay.play("13 proxy ready")
    assert replay.state.roll is None
