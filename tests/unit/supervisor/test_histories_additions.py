"""Histories: servers that are added while a cluster runs."""

from __future__ import annotations

import pytest
from helpers.supervision import up


def test_a_new_server_starts_at_once_and_need_not_be_ready_for_the_others() -> None:
    replay = up().play("10 context-1 added")
    assert replay.log == ["context-1 spawn"]
    assert not replay.state.all_ready
    replay.play("11 context-1 dies")
    assert replay.phases["context-1"] == "failed"
    assert replay.state.stop is None


def test_a_new_server_waits_for_those_whose_place_it_takes() -> None:
    replay = up().play("""
        10 generation-0 used-by 1
        10 generation-0 remove
        11 context-1 added generation-0
        12 generation-0 used-by 0
    """)
    assert "context-1 spawn" not in replay.log
    replay.play("13 generation-0 ends")
    assert replay.log[-1] == "context-1 spawn"


def test_a_new_server_does_not_wait_for_one_that_was_called_back() -> None:
    replay = up().play("""
        10 generation-0 used-by 1
        10 generation-0 remove
        11 context-1 added generation-0
        12 generation-0 added
    """)
    assert replay.log[-1] == "context-1 spawn"


@pytest.mark.parametrize("verb", ["drain", "remove"])
def test_one_that_is_about_to_go_and_is_added_again_comes_back(verb: str) -> None:
    replay = up().play(f"""
        10 generation-0 {verb}
        11 generation-0 added
        12 generation-0 dies
    """)
    assert replay.log[-1] == "generation-0 spawn"


def test_one_that_is_there_and_is_added_goes_on() -> None:
    assert up().play("10 generation-0 added").log == []
