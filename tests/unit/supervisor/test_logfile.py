from __future__ import annotations

from contextlib import closing
from pathlib import Path

from trtdisagg.supervisor.logfile import LogFile


def test_full_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    with closing(LogFile(tmp_path / "a.log", max_bytes=20, num_old_files=2)) as log:
        for i in range(8):
            log.write(b"line %d ....\n" % i)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {
        "a.log": "line 6 ....\nline 7 ....\n",
        "a.log.1": "line 4 ....\nline 5 ....\n",
        "a.log.2": "line 2 ....\nline 3 ....\n",
    }


def test_a_new_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with closing(LogFile(tmp_path / "a.log", max_bytes=5)) as log:
            log.write(text)
    with closing(LogFile(tmp_path / "a.log", max_bytes=5)) as log:
        log.write(b"three\n")
        log.write(b"four\n")
    assert (tmp_path / "a.log").read_text() == "four\n"
    assert (tmp_path / "a.log.1").read_text() == "one\ntwo\nthree\n"
