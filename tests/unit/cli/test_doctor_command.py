"""`doctor`: findings as a table and as JSON, and the exit code."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.plans import FAKE_ENGINE

from trtdisagg.cli import doctor as module
from trtdisagg.cli.doctor_view import doctor_view
from trtdisagg.cli.main import cli
from trtdisagg.cli.terminal import console
from trtdisagg.errors import StartupError
from trtdisagg.protocol.probe import LinkRate
from trtdisagg.supervisor.doctor import Finding, Probed
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.rundir import hold

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HF_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(cli, ["doctor", *args])


def write_file(port: int) -> None:
    Path("cluster.yaml").write_text(f"name: doc\nmodel: fake\nport: {port}\ncommand: {FAKE_ENGINE}\n")


def topics(result: Result) -> dict[str, str]:
    return {finding["topic"]: finding["severity"] for finding in json.loads(result.stdout)["findings"]}


def test_the_machine_as_such(run: Run) -> None:
    result = run("--no-probe")
    assert result.exit_code == 0
    assert "the machine as such" in result.stdout
    assert {"memory", "open files", "CPU cores"} <= topics(run("--no-probe", "--json")).keys()


def test_a_plan_whose_port_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        write_file(taken.getsockname()[1])
        result = run("--no-probe", "--json")
        assert (result.exit_code, topics(result)["ports"]) == (1, "error")
        assert "1 error" in run("--no-probe").stdout
        other = run("--no-probe", "--json", "--set", "port=0")
        assert (other.exit_code, topics(other).get("ports")) == (0, None)


def test_a_file_that_cannot_be_planned_is_a_finding_among_others(run: Run) -> None:
    Path("bad.yaml").write_text("modle: x\n")
    result = run("bad.yaml", "--no-probe", "--json")
    assert result.exit_code == 1
    assert topics(result)["plan"] == "error"
    assert "memory" in topics(result)
    assert "did you mean model?" in result.stdout


def test_a_cluster_that_runs_leaves_no_room_for_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(*_args: object, **_options: object) -> None:
        raise StartupError("too little memory")

    write_file(0)
    monkeypatch.setattr(module, "survey", survey)
    assert topics(run("--no-probe", "--json"))["plan"] == "error"
    with hold(Place.of(Path("cluster.yaml"), "doc"), "run"):
        result = run("--no-probe", "--json")
    assert (result.exit_code, topics(result)["plan"]) == (0, "warning")
    assert f"this cluster runs (pid {os.getpid()})" in result.stdout


def test_what_the_probe_says_comes_last(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = LinkRate(transport="nixl", device="cpu", error="no such device")
    monkeypatch.setattr(module, "probe", lambda _plan: iter([Probed(lines=[broken], transports=["nixl"])]))
    assert topics(run("--json"))["link nixl"] == "warning"


def test_without_our_engine_there_is_nothing_to_probe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda _plan: pytest.fail("probed"))
    write_file(0)
    assert run("--json").exit_code == 0


def test_set_needs_a_file(run: Run) -> None:
    result = run("--set", "port=1")
    assert result.exit_code == 2
    assert "--set is for a cluster file" in result.stderr


@pytest.mark.parametrize(
    ("severities", "last"),
    [(["ok"], "All is well"), (["ok", "warning"], "1 warning"), (["error", "error", "warning"], "2 errors, 1 warning")],
)
def test_the_last_line_counts(severities: list[str], last: str, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding(topic="t", severity=s, found="f", needs="n", remedy="r") for s in severities]  # type: ignore[arg-type]
    console().print(doctor_view(findings))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == last
    assert lines[1] == "r"
