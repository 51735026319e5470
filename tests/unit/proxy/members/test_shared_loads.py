"""What one process of a proxy sees of the others' work."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.errors import StartupError
from trtdisagg.protocol.loads import MAX_REQUESTS, MAX_TOKENS, LoadFile
from trtdisagg.proxy.members.shared_loads import SharedLoads
from trtdisagg.proxy.routing.ask import Load

ROWS = {"a": 1, "b": 2}


def pair(tmp_path: Path) -> tuple[SharedLoads, SharedLoads]:
    path = tmp_path / "loads"
    owner = LoadFile.make(path)
    owner.num_columns = 2
    owner.close()
    one, other = (SharedLoads(str(path), column) for column in (0, 1))
    for loads in (one, other):
        loads.take_rows(ROWS)
    return one, other


def test_each_sees_what_the_others_have(tmp_path: Path) -> None:
    one, other = pair(tmp_path)
    one.tell("a", Load(2, 200))
    other.tell("a", Load(1, 10))
    other.tell("b", Load(4, 40))
    assert (one.load("a"), one.load("b")) == (Load(1, 10), Load(4, 40))
    assert (other.load("a"), other.load("b")) == (Load(2, 200), Load())
    one.tell("a", Load())
    assert other.load("a") == Load()


def test_what_was_in_flight_before_a_server_had_a_row_is_told_then(tmp_path: Path) -> None:
    one, other = pair(tmp_path)
    one.tell("late", Load(3, 30))
    assert other.load("late") == Load()
    for loads in (one, other):
        loads.take_rows({**ROWS, "late": 3})
    assert (one.load("late"), other.load("late")) == (Load(), Load(3, 30))


def test_a_row_that_was_another_servers_has_nothing_of_it(tmp_path: Path) -> None:
    one, other = pair(tmp_path)
    one.tell("a", Load(3, 30))
    for loads in (one, other):
        # "a" came back before they were told that it had gone.
        loads.take_rows({"c": ROWS["a"], "b": ROWS["b"], "a": 3})
    assert (other.load("a"), other.load("c")) == (Load(3, 30), Load())
    assert (one.load("a"), one.load("c")) == (Load(), Load())


def test_more_than_can_be_said_is_as_much_as_can_be(tmp_path: Path) -> None:
    one, other = pair(tmp_path)
    one.tell("a", Load(10**7, 10**19))
    other.tell("a", Load(1, 10))
    assert one.load("a") == Load(1, 10)
    assert other.load("a") == Load(MAX_REQUESTS, MAX_TOKENS)
    one.tell("a", Load())
    assert other.load("a") == Load()


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"load_file .*no"):
        SharedLoads(str(tmp_path / "no"), 0)
