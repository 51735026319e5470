"""Slurm's short forms of node lists and of repeated numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.errors import ConfigError
from trtdisagg.slurm.nodelist import MAX_NODES, node_names, repeated_numbers


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node01", ["node01"]),
        ("node[01-03]", ["node01", "node02", "node03"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("node[9-11]", ["node9", "node10", "node11"]),
        ("node[099-101]", ["node099", "node100", "node101"]),
        ("node[3,1]", ["node3", "node1"]),
        ("a,b[1-2]x,c", ["a", "b1x", "b2x", "c"]),
        ("gpu-a[1-2]-ib[0-1]", ["gpu-a1-ib0", "gpu-a1-ib1", "gpu-a2-ib0", "gpu-a2-ib1"]),
        ("r[1-2]n[01,04].cluster", ["r1n01.cluster", "r1n04.cluster", "r2n01.cluster", "r2n04.cluster"]),
        (" dgx-h200-[7] \n", ["dgx-h200-7"]),
    ],
)
def test_lists(text: str, names: list[str]) -> None:
    assert node_names(text) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no list of nodes"),
        ("node[01-02", "is no list of nodes"),
        ("node01]", "is no list of nodes"),
        ("node01,,node02", "is no list of nodes"),
        ("node[1-[2]]", "is no list of nodes"),
        ("node[]", "nothing between the brackets"),
        ("node[3-1]", "'3-1' is no range"),
        ("node[1-x]", "'1-x' is no number"),
        ("node[1,]", "'' is no number"),
        ("node[1-2],node2", "names node2 twice"),
        (f"node[1-{MAX_NODES + 1}]", "is no range of at most"),
        ("r[1-300]n[1-300]", "means more than"),
    ],
)
def test_what_is_no_list_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        node_names(text)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
def test_any_numbers_come_back(numbers: list[int]) -> None:
    text = f"n[{','.join(f'{number:03}' for number in numbers)}]"
    assert node_names(text) == [f"n{number:03}" for number in numbers]


@pytest.mark.parametrize(
    ("text", "numbers"), [("1", [1]), ("4(x2)", [4, 4]), ("4(x2),3", [4, 4, 3]), ("72,36(x3)", [72, 36, 36, 36])]
)
def test_repeated_numbers(text: str, numbers: list[int]) -> None:
    assert repeated_numbers(text, "SLURM_TASKS_PER_NODE") == numbers


@pytest.mark.parametrize("text", ["", "x", "4(x)", "4(2)", "4,", "4(x99999999)"])
def test_what_is_no_number_names_the_variable(text: str) -> None:
    with pytest.raises(ConfigError, match="SLURM_TASKS_PER_NODE="):
        repeated_numbers(text, "SLURM_TASKS_PER_NODE")
