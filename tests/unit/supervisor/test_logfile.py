from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from trtdisagg.supervisor import logfile
from trtdisagg.supervisor.logfile import MARK_S, LogFile, times_file


def test_full_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "a.log", max_bytes=20, num_old_files=2, clock=lambda: 5.0)) as log:
        for i in range(8):
            log.write(b"line %d ....\n" % i)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {
        "a.log": "line 6 ....\nline 7 ....\n",
        "a.log.1": "line 4 ....\nline 5 ....\n",
        "a.log.2": "line 2 ....\nline 3 ....\n",
        "a.times": "0 5.000\n",
        "a.times.1": "0 5.000\n",
        "a.times.2": "0 5.000\n",
    }


def test_a_new_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        with closing(LogFile(tmp_path / "a.log")) as log:
            log.write(line)
    assert (tmp_path / "a.log").read_text() == "one\ntwo\n"
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600
    assert times_file(tmp_path / "a.log").stat().st_mode & 0o777 == 0o600


def test_a_time_is_noted_at_most_so_often(tmp_path: Path) -> None:
    times: Iterator[float] = iter([10.0, 10.0 + MARK_S / 2, 10.5, 10.5, 9.0])
    with closing(LogFile(tmp_path / "a.log", clock=lambda: next(times))) as log:
        for _ in range(5):
            log.write(b"1234\n")
    marks = times_file(tmp_path / "a.log").read_text().splitlines()
    assert marks == ["0 10.000", "10 10.500", "20 9.000"], "a clock that was set back, too"


def test_a_file_server_that_has_lost_what_was_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_close, closed = os.close, []

    def close(fd: int) -> None:
        real_close(fd)
        closed.append(fd)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    log = LogFile(tmp_path / "a.log")
    log.write(b"one\n")
    monkeypatch.setattr(logfile.os, "close", close)
    with pytest.raises(OSError, match="quota"):
        log.close()
    log.close()
    assert len(closed) == len(set(closed)) == 2, "a number that is closed again may be somebody else's by now"


def test_a_full_disk_is_told_and_the_next_line_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_full = False
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    monkeypatch.setattr(logfile.os, "write", write)
    with closing(LogFile(tmp_path / "a.log")) as log:
        log.write(b"one\n")
        is_full = True
        with pytest.raises(OSError, match="No space"):
            log.write(b"two\n")
        is_full = False
        log.write(b"three\n")
    assert (tmp_path / "a.log").read_text() == "one\nthree\n"
