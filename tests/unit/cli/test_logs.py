"""`logs`: the last lines of several files, and what comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdisagg.cli.logs import Tail
from trtdisagg.cli.main import cli
from trtdisagg.supervisor.rundir import Place


@pytest.fixture
def log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of a cluster that ran and does not any more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = Place.of(Path("cluster.yaml"), "c", os.environ).log_dir
    directory.mkdir(parents=True)
    (directory / "proxy.log").write_text("p1\np2\n")
    (directory / "context-0.log").write_text("c1\nc2\nc3\n")
    (directory / "context-0.log.1").write_text("old\n")
    return directory


def logs(*args: str) -> Result:
    return CliRunner().invoke(cli, ["logs", *args])


def test_everybody_with_names(log_dir: Path) -> None:
    assert logs("-n", "2").output == "context-0 | c2\ncontext-0 | c3\nproxy     | p1\nproxy     | p2\n"


def test_one_without(log_dir: Path) -> None:
    assert logs("context-0").output == "c1\nc2\nc3\n"
    assert logs("cluster.yaml", "context-0", "-n", "0").output == ""


def test_following_what_does_not_run_ends(log_dir: Path) -> None:
    assert logs("-f", "proxy").output == "p1\np2\n"


def test_a_name_without_log(log_dir: Path) -> None:
    result = logs("generation-0")
    assert result.exit_code == 3
    assert "no log of generation-0; there are: context-0, proxy" in result.stderr


def test_two_files(log_dir: Path) -> None:
    assert logs("a.yaml", "b.yml").exit_code == 2


def test_tail_gives_whole_lines_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = Tail(path, 1)
    assert tail.read() == []
    with path.open("ab", buffering=0) as file:
        file.write(b"one\ntwo\nthr")
        assert tail.read() == ["two"]
        file.write(b"ee\nf\xff\n")
        assert tail.read() == ["three", "f\N{REPLACEMENT CHARACTER}"]
        assert tail.read() == []
    tail.close()


def test_tail_loses_nothing_when_the_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("a\n")
    tail = Tail(path)
    assert tail.read() == ["a"]
    with path.open("a") as file:
        file.write("b\n")
    path.rename(tmp_path / "x.log.1")
    path.write_text("c\n")
    assert tail.read() == ["b", "c"]
    tail.close()
