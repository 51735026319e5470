"""The load file: what other processes write is seen, and nobody else's slots are touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trtdisagg.protocol.loads import KEY_ROWS, NUM_COLUMNS, NUM_ROWS, LoadFile

WRITER = """
import sys
from trtdisagg.protocol.loads import KEY_ROWS, LoadFile
loads, column = LoadFile.open(sys.argv[1]), int(sys.argv[2])
for i in range(20000):
    loads.write(7, column, i, 3 * i)
loads.write(7, column, 5, 15)
print("written", flush=True)
sys.stdin.read()
"""


def test_processes_that_write_at_once_add_up(tmp_path: Path) -> None:
    path = tmp_path / "loads"
    loads = LoadFile.make(path)
    loads.num_columns = 3
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(column)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for column in (0, 2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
    assert loads.sums(7) == (10, 30)
    writers[0].kill()
    writers[0].wait()
    assert loads.sums(7) == (10, 30), "what a process wrote outlives it, until its owner clears it"
    loads.write(7, 0, 0, 0)
    assert loads.sums(7) == (5, 15)
    for writer in writers:
        writer.communicate()
    assert loads.sums(6) == loads.sums(8) == (0, 0)
    loads.close()


def test_the_last_row_and_column_are_in_the_file(tmp_path: Path) -> None:
    loads = LoadFile.make(tmp_path / "loads")
    loads.num_columns = NUM_COLUMNS
    for row in (NUM_ROWS - 1, KEY_ROWS[0], KEY_ROWS[-1]):
        loads.write(row, NUM_COLUMNS - 1, row, 2)
        assert loads.sums(row) == (row, 2)
    assert loads.sums(NUM_ROWS - 1) == (NUM_ROWS - 1, 2)
    assert KEY_ROWS.stop * NUM_COLUMNS == len(loads.slots)
    loads.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 4096])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "loads").write_bytes(content)
    with pytest.raises(ValueError, match="of another release"):
        LoadFile.open(str(tmp_path / "loads"))


def test_a_column_that_comes_into_use_is_seen_and_large_numbers_add_up(tmp_path: Path) -> None:
    loads = LoadFile.make(tmp_path / "loads")
    loads.num_columns = 1
    loads.write(1, 0, 4000, 10**9)
    assert loads.sums(1) == (4000, 10**9)
    loads.write(1, 1, 4000, 10**11)
    assert loads.sums(1) == (4000, 10**9), "nobody has that column yet"
    loads.num_columns = 2
    assert loads.sums(1) == (8000, 10**9 + 10**11)
    loads.close()
