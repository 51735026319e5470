"""Who has which row and column, as servers and processes come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trtdisagg.protocol.loads import NUM_COLUMNS, NUM_ROWS, LoadFile
from trtdisagg.supervisor.load_table import LoadTable


@pytest.fixture
def table(tmp_path: Path) -> Iterator[LoadTable]:
    with LoadTable(tmp_path / "loads") as it:
        yield it


def test_without_several_processes_there_is_no_file(table: LoadTable) -> None:
    table.keep(["a"], [])
    table.leave("run.proxy.1")
    assert table.rows == {}
    assert not table.path.exists()


def test_columns_are_given_out_again_and_empty(table: LoadTable) -> None:
    assert [table.enter(name) for name in ("p0", "p1", "p0")] == [0, 1, 0]
    table.keep(["a"], [])
    mapped = LoadFile.open(str(table.path))
    mapped.write(table.rows["a"], 0, 2, 20)
    mapped.write(table.rows["a"], 1, 3, 30)
    table.leave("p0")
    assert mapped.sums(table.rows["a"]) == (3, 30)
    assert table.enter("p2") == 0
    assert (table.has("p0"), table.has("p2"), mapped.num_columns) == (False, True, 2)
    mapped.close()


def test_a_row_is_kept_as_long_as_somebody_may_count_there(table: LoadTable) -> None:
    table.enter("p0")
    table.keep(["a", "b"], [])
    row = table.rows["a"]
    table.keep(["b"], ["a"])
    assert table.rows["a"] == row
    table.keep(["b"], [])
    assert "a" not in table.rows
    table.keep(["b", "c"], [])
    assert table.rows["c"] == row


def test_what_finds_no_place_is_left_out(table: LoadTable) -> None:
    columns = [table.enter(f"p{i}") for i in range(NUM_COLUMNS + 1)]
    assert columns == [*range(NUM_COLUMNS), None]
    table.keep([f"s{i}" for i in range(NUM_ROWS)], [])
    assert len(table.rows) == NUM_ROWS - 1
    assert 0 not in table.rows.values(), "the first row is the file's own"
