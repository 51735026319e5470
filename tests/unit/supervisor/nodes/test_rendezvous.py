"""The file by which node agents find the head."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

import trtdisagg
from trtdisagg.errors import StartupError
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous, announced, default_directory, look

pytestmark = pytest.mark.anyio
HEAD = Rendezvous(host="10.0.0.1", port=4711, secret="ab")


async def test_it_is_there_as_long_as_the_head_is_and_its_user_s_alone(tmp_path: Path) -> None:
    directory = default_directory("12", "0", {"XDG_STATE_HOME": str(tmp_path)})
    assert directory == tmp_path / "trtdisagg" / "slurm" / "12.0"
    assert look(directory) is None
    async with announced(directory, HEAD):
        assert look(directory) == HEAD
        assert stat.S_IMODE((directory / "head.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


async def test_the_head_of_a_later_run_takes_the_place_of_one_that_was_killed(tmp_path: Path) -> None:
    later = replace(HEAD, port=4712)
    async with announced(tmp_path / "12.0", HEAD):
        async with announced(tmp_path / "12.0", later):
            assert look(tmp_path / "12.0") == later
        async with announced(tmp_path / "12.0", later):
            pass
    (tmp_path / "12.0").mkdir()
    async with announced(tmp_path / "12.0", HEAD):
        (tmp_path / "12.0" / "head.json").write_bytes(b"{}")
    assert (tmp_path / "12.0" / "head.json").read_bytes() == b"{}", "it is another's by now"


async def test_what_others_may_have_written_is_not_believed(tmp_path: Path) -> None:
    async with announced(tmp_path / "d", HEAD):
        file = tmp_path / "d" / "head.json"
        file.chmod(0o644)
        with pytest.raises(StartupError, match="not this user's alone"):
            look(tmp_path / "d")
        file.chmod(0o600)
        file.write_bytes(b'{"host": "h"}')
        with pytest.raises(StartupError, match="of another release"):
            look(tmp_path / "d")
        file.unlink()
        file.symlink_to("/etc/passwd")
        with pytest.raises(StartupError, match="cannot be read"):
            look(tmp_path / "d")


async def test_a_file_that_was_replaced_while_it_was_read_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems say so."""

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    async with announced(tmp_path / "d", HEAD):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fail)
            assert look(tmp_path / "d") is None
        assert look(tmp_path / "d") == HEAD


async def test_a_file_system_that_hangs_keeps_no_process_from_ending(tmp_path: Path) -> None:
    """Whoever opens a pipe to read waits for a writer, as one waits for a file server that is away."""
    code = f"""
import anyio, os
from pathlib import Path
from trtdisagg.supervisor.nodes import rendezvous
rendezvous._WITHDRAW_S = 0.01
async def run():
    async with rendezvous.announced(Path({str(tmp_path)!r}), rendezvous.Rendezvous(host="h", port=1, secret=None)):
        os.unlink({str(tmp_path / "head.json")!r})
        os.mkfifo({str(tmp_path / "head.json")!r})
anyio.run(run)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(trtdisagg.__file__).parents[1])}
    with anyio.fail_after(60):
        await anyio.run_process([sys.executable, "-c", code], env=env)


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"file/head.json, where the other nodes look .* cannot be written: File ex"):
        async with announced(tmp_path / "file", HEAD):
            pass
