"""`logs`: the last lines of several files in the order they came, and what comes."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdisagg.cli.log_lines import Line, Tail
from trtdisagg.cli.main import cli
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.logfile import LogFile
from trtdisagg.supervisor.place import Place

NOON = datetime.now().replace(hour=12, minute=0, second=0, microsecond=0).timestamp()


def write(path: Path, *lines: tuple[float, str], max_bytes: int = 1000) -> None:
    """A log with lines that came at these times."""
    at = 0.0
    with closing(LogFile(path, clock=lambda: at, max_bytes=max_bytes)) as log:
        for when, text in lines:
            at = when
            log.write(text.encode() + b"\n")


@pytest.fixture
def log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of a cluster that ran and does not any more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = Place.of(Path("cluster.yaml"), "c", os.environ).log_dir
    directory.mkdir(parents=True)
    write(directory / "proxy.log", (NOON + 0.5, "p1"), (NOON + 2, "p2"))
    write(directory / "context-0.log", (NOON - 86400, "old"), (NOON, "c1"), (NOON + 1, "c2"), (NOON + 3, "c3"))
    return directory


def logs(*args: str) -> Result:
    return CliRunner().invoke(cli, ["logs", *args])


def test_everybody_with_time_and_name_in_the_order_of_time(log_dir: Path) -> None:
    assert logs("-n", "3").output.splitlines() == [
        "12:00:00.000 context-0 | c1",
        "12:00:00.500 proxy     | p1",
        "12:00:01.000 context-0 | c2",
        "12:00:02.000 proxy     | p2",
        "12:00:03.000 context-0 | c3",
    ]


def test_the_proxy_is_all_its_processes(log_dir: Path) -> None:
    write(log_dir / "proxy-1.log", (NOON + 1, "q1"))
    lines = ["12:00:00.500 proxy   | p1", "12:00:01.000 proxy-1 | q1", "12:00:02.000 proxy   | p2"]
    assert logs("proxy").output.splitlines() == lines
    assert logs("proxy-1").output.splitlines() == lines[1:2]


def test_another_day_is_told(log_dir: Path) -> None:
    first = logs("context-0").output.splitlines()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d 1\d:00:00\.000 context-0 \| old", first)


def test_without_prefix_and_as_json(log_dir: Path) -> None:
    assert logs("--no-prefix", "-n", "1").output == "p2\nc3\n"
    assert logs("cluster.yaml", "context-0", "-n", "0").output == ""
    lines = [json.loads(line) for line in logs("--json", "-n", "1").output.splitlines()]
    assert lines == [
        {"time": NOON + 2, "server": "proxy", "text": "p2"},
        {"time": NOON + 3, "server": "context-0", "text": "c3"},
    ]
    assert logs("--json", "--no-prefix").exit_code == 2


@pytest.mark.parametrize("since", ["12:00:01", f"{datetime.fromtimestamp(NOON + 1).isoformat()}"])
def test_since_a_time(log_dir: Path, since: str) -> None:
    assert logs("--no-prefix", "--since", since).output == "c2\np2\nc3\n"
    assert logs("--no-prefix", "--since", since, "-n", "1").output == "p2\nc3\n"


def test_since_an_age(log_dir: Path) -> None:
    write(log_dir / "late.log", (time.time() - 90, "before"), (time.time() - 30, "after"))
    assert logs("late", "--no-prefix", "--since", "1m").output == "after\n"
    assert logs("late", "--no-prefix", "--since", "1h").output == "before\nafter\n"
    wrong = logs("--since", "yesterday")
    assert wrong.exit_code == 2
    assert "neither an age as 30s" in wrong.stderr


def test_what_was_put_aside_is_read_as_far_as_it_is_asked_for(log_dir: Path) -> None:
    write(log_dir / "full.log", *[(NOON + i, f"line {i}") for i in range(9)], max_bytes=20)
    assert (log_dir / "full.log.2").exists()
    assert logs("full", "--no-prefix", "-n", "4").output.split("\n")[:-1] == [f"line {i}" for i in range(5, 9)]
    assert logs("full", "--no-prefix", "--since", "12:00:02").output.split("\n")[0] == "line 2"


def test_the_supervisors_own_lines_have_one_time(log_dir: Path) -> None:
    write(log_dir / "agent.log", (NOON, "12:00:00.001 context-0: started"))
    assert logs("agent").output == "12:00:00.000 agent | context-0: started\n"
    (log_dir / "agent.times").unlink()
    assert logs("agent").output == "agent | 12:00:00.001 context-0: started\n"


def test_colours_are_for_terminals(log_dir: Path) -> None:
    assert "\x1b" not in CliRunner().invoke(cli, ["logs"], color=True).output


def test_following_what_does_not_run_ends(log_dir: Path) -> None:
    assert logs("-f", "proxy", "--no-prefix").output == "p1\np2\n"


def test_a_name_without_log(log_dir: Path) -> None:
    result = logs("generation-0")
    assert result.exit_code == 3
    assert "no log of generation-0; there are: context-0, proxy" in result.stderr


def test_the_name_of_a_cluster_that_runs(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Place.of(Path("cluster.yaml"), "c"), Place.of(Path("proxy.yaml"), "proxy")]
    monkeypatch.setattr(rundir, "find_running", lambda *_: places)
    assert logs("c", "proxy", "--no-prefix").output == "p1\np2\n", "every cluster has a proxy"
    assert logs("c", "c").exit_code == 2


def test_two_files(log_dir: Path) -> None:
    assert logs("a.yaml", "b.yml").exit_code == 2


# --- one file as it grows -------------------------------------------------------------------------------------------


def test_whole_lines_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with closing(Tail(path)) as tail:
        assert tail.past(1) == []
        with path.open("ab", buffering=0) as file:
            file.write(b"one\ntwo\nthr")
            assert [line.text for line in tail.read()] == ["one", "two"]
            file.write(b"ee\nf\xff\n")
            assert tail.read() == [Line(0.0, "three"), Line(0.0, "f\N{REPLACEMENT CHARACTER}")]
            assert tail.read() == []


def test_nothing_is_lost_and_no_time_mixed_up_when_a_file_is_put_aside(tmp_path: Path) -> None:
    path, at = tmp_path / "x.log", 0.0
    with closing(LogFile(path, clock=lambda: at, max_bytes=12)) as log, closing(Tail(path)) as tail:
        seen: list[Line] = tail.past(None)
        for i in range(40):
            at = 100.0 + i
            log.write(b"line %02d\n" % i)
            if i % 2:
                seen += tail.read()
    assert seen == [Line(100.0 + i, f"line {i:02d}") for i in range(40)]


def test_marks_that_a_full_disk_cut_short_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "x.log", (7.0, "one"))
    (tmp_path / "x.times").write_text("0 7.000\n4 \n")
    with (tmp_path / "x.log").open("a") as file:
        file.write("two\n")
    with closing(Tail(tmp_path / "x.log")) as tail:
        assert tail.past(None) == [Line(7.0, "one"), Line(7.0, "two")]
