"""The logs of children, on a disk that makes trouble."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from trtdisagg.supervisor.logbook import LogBook
from trtdisagg.supervisor.logfile import LogFile

pytestmark = pytest.mark.anyio


async def test_a_log_that_cannot_be_closed_is_told_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, has_told = [], anyio.Event()
    real_close = LogFile.close

    def close(log: LogFile) -> None:
        real_close(log)
        raise OSError("Disk quota exceeded")

    def on_failure(name: str, error: OSError) -> None:
        told.append((name, str(error)))
        has_told.set()

    monkeypatch.setattr(LogFile, "close", close)
    with LogBook(lambda name: tmp_path / name, on_failure) as logs:
        logs.write("gone", b"one\n")
        logs.forget("gone")
        logs.write("there", b"two\n")
        with anyio.fail_after(20):
            await has_told.wait()
    assert told == [("gone", "Disk quota exceeded")]
    assert (tmp_path / "there").read_bytes() == b"two\n"
