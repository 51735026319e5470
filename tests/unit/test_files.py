from __future__ import annotations

import stat
from pathlib import Path

import pytest

from trtdisagg.files import write_whole


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_only_the_owner_may_read_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "spec.json", b"{}")
    write_whole(tmp_path / "spec.json", b"[]")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"[]"]
    assert mode_of(tmp_path / "spec.json") == 0o600


def test_others_may_where_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "url", b"http://h:1", mode=0o666)
    assert mode_of(tmp_path / "url") == mode_of(tmp_path / "plain")


def test_what_stands_in_its_place_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "secret"
    theirs.write_bytes(b"x")
    ours.symlink_to(theirs)
    write_whole(ours, b"secret")
    assert theirs.read_bytes() == b"x"
    assert not ours.is_symlink()


def test_where_it_cannot_be_written_there_is_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "taken", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
