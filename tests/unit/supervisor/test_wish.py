"""What it takes to have so many servers, who they are, and how two files differ."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from helpers.supervision import Replay, up

from trtdisagg.errors import ConfigError
from trtdisagg.supervisor import wish
from trtdisagg.supervisor.state import initial
from trtdisagg.supervisor.wish import Scaling

GROUPS = ["context", "generation", "both"]


def grown() -> Replay:
    """context-0, generation-0 to generation-2, all ready."""
    return up().play("""
        4 generation-1 added
        4 generation-2 added
        5 generation-1 ready
        5 generation-2 ready
    """)


def scaling(replay: Replay, **counts: int) -> Scaling:
    return wish.scaling(replay.state, counts, GROUPS)


# --- scaling --------------------------------------------------------------------------------------------------------


def test_nothing_to_do() -> None:
    assert scaling(grown(), context=1, generation=3) == Scaling()


def test_new_ones_get_the_lowest_numbers_that_are_free() -> None:
    replay = grown().play("6 generation-1 remove").play("7 generation-1 ends")
    assert scaling(replay, generation=5).new == ["generation-1", "generation-3", "generation-4"]


def test_the_name_of_one_that_is_only_about_to_go_is_not_free() -> None:
    replay = grown().play("6 generation-1 remove")
    assert scaling(replay, generation=3) == Scaling(new=["generation-3"])


def test_the_first_of_a_role() -> None:
    assert scaling(grown(), both=2).new == ["both-0", "both-1"]


def test_those_that_are_stopped_come_back_first() -> None:
    replay = grown().play("6 generation-2 drain").play("7 generation-2 ends")
    assert scaling(replay, generation=2) == Scaling()
    assert scaling(replay, generation=4) == Scaling(revived=["generation-2"], new=["generation-3"])


def test_those_that_have_failed_come_back_too() -> None:
    replay = grown().play("6 generation-1 fails-for-good x").play("7 generation-1 dies")
    assert scaling(replay, generation=3) == Scaling(revived=["generation-1"])


@pytest.mark.parametrize(
    ("history", "count", "removed"),
    [
        ("6 cluster passes", 2, ["generation-2"]),
        ("6 cluster passes", 1, ["generation-1", "generation-2"]),
        ("6 generation-0 dies", 2, ["generation-0"]),
        ("6 generation-0 freezes\n9 cluster passes", 1, ["generation-2", "generation-0"]),
        ("6 generation-1 fails-for-good x\n6 generation-1 dies", 2, ["generation-1"]),
        ("6 generation-0 restart", 2, ["generation-0"]),
        ("6 cluster passes", 0, ["generation-0", "generation-1", "generation-2"]),
    ],
)
def test_those_that_do_not_serve_go_first_then_the_newest(history: str, count: int, removed: list[str]) -> None:
    assert scaling(grown().play(history), generation=count) == Scaling(removed=removed)


def test_one_counts_for_the_role_that_it_has() -> None:
    replay = grown().play("6 generation-2 switch context").play("8 generation-2 switched context")
    assert scaling(replay, context=2, generation=2) == Scaling()
    assert scaling(replay, context=1, generation=3) == Scaling(removed=["generation-2"], new=["generation-3"])
    assert wish.roles(replay.state) == {"generation-2": "context"}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"decode": 1}, "there is no role 'decode' to scale; there are: context, generation, both"),
        ({"context": -1}, "context=-1: a number of servers is 0 or more"),
    ],
)
def test_what_cannot_be_scaled(counts: Mapping[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wish.scaling(grown().state, counts, GROUPS)


# --- names ----------------------------------------------------------------------------------------------------------


def test_names_of_several_models() -> None:
    names = ("proxy", "big.context-0", "big.generation-0", "small.generation-0", "small.generation-11")
    roles = {name: name.rpartition(".")[2].partition("-")[0] for name in names}
    state = initial("run", roles, 0.0)  # type: ignore[arg-type]
    assert [wish.group_of(child) for child in wish.servers(state)] == [
        "big.context",
        "big.generation",
        "small.generation",
        "small.generation",
    ]
    assert wish.numbers(names[1:]) == {"big.context": [0], "big.generation": [0], "small.generation": [0, 11]}
    assert wish.roles(state) == {}
    groups = ["big.generation", "small.generation"]
    assert wish.scaling(state, {"small.generation": 3}, groups).new == ["small.generation-1"]


def test_servers_are_those_that_belong_to_the_cluster() -> None:
    replay = grown().play("""
        6 proxy restart
        7 generation-0 drain
        7 generation-1 remove
    """)
    assert [child.name for child in wish.servers(replay.state)] == ["context-0", "generation-0", "generation-2"]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": {"b": {"c": "x"}}}, {"a": {"b": {"c": "y"}}}, ['a.b.c: "x" -> "y"']),
        ({"a": 1}, {"b": [1]}, ["a: 1 -> (none)", "b: (none) -> [1]"]),
        ({"a": None}, {"a": {"b": 1}}, ['a: (none) -> {"b":1}']),
        ({"a": [1, 2]}, {"a": [2]}, ["a: [1,2] -> [2]"]),
        (
            {"a": [{"name": "x", "b": 1}]},
            {"a": [{"name": "y"}, {"name": "x", "b": 2}]},
            ["a.x.b: 1 -> 2", 'a.y: (none) -> {"name":"y"}'],
        ),
    ],
)
def test_changes(old: object, new: object, lines: list[str]) -> None:
    assert wish.changes(old, new) == lines
