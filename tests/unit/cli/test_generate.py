"""The files that `generate` prints: equal to those in examples/, and right for who reads them."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.metric_tables import engine_text, proxy_text
from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.cli.generate.grafana import dashboard
from trtdisagg.cli.main import cli

EXAMPLES = Path(__file__).parents[3] / "examples"
INSTALLED = ["--program", "/opt/trtdisagg/bin/trtdisagg", "--file-at", "/etc/trtdisagg/smollm2.yaml"]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["generate", *map(str, args)])


def printed(*args: str | Path) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("path", "args"),
    [
        (
            "systemd/trtdisagg.service",
            ["systemd", EXAMPLES / "smollm2.yaml", *INSTALLED, "--name", "trtdisagg", "--account", "trtdisagg"],
        ),
        ("grafana.json", ["grafana"]),
    ],
)
def test_the_example_is_what_is_printed(path: str, args: list[str]) -> None:
    assert (EXAMPLES / path).read_text() == printed(*args)


def test_every_example_is_looked_at() -> None:
    assert [path.name for path in (EXAMPLES / "systemd").iterdir()] == ["trtdisagg.service"]


# --- about the cluster file -----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "odd name 100%$" / "cluster.yaml"
    path.parent.mkdir()
    path.write_text(
        "name: mine\nmodel: m\nport: 1234\nsupervision: {drain_timeout_s: 120.5, kill_timeout_s: 7}\n"
        "context_servers: {}\ngeneration_servers: {}\n"
    )
    return path


def test_a_wrong_file_is_told_now_and_not_by_the_service(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\nprot: 1\n")
    result = run("systemd", tmp_path / "c.yaml")
    assert result.exit_code == 2
    assert "c.yaml:2: prot: unknown key; did you mean port?" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["systemd", "--program", "bin/x"], "bin/x is not an absolute path"),
        (["systemd", "--file-at", "x.yaml"], "x.yaml is not an absolute path"),
        (["systemd", "--name", "a/b"], "letters, digits"),
        (["systemd", "--account", "a\nExecStartPre=/bin/x"], "letters, digits"),
        (["systemd", "--user", "--account", "me"], "--account is for the machine's unit"),
        (["systemd", "--program", '/opt/"x"'], "no quotes and backslashes in a program's name"),
    ],
)
def test_wrong_options(file: Path, args: list[str], message: str) -> None:
    result = run(args[0], file, *args[1:])
    assert result.exit_code == 2
    assert message in result.stderr


# --- systemd --------------------------------------------------------------------------------------------------------


def sections(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=["="], comment_prefixes=["#"])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    return parser


def test_the_deadline_is_above_that_of_the_cluster_file(file: Path) -> None:
    service = sections(printed("systemd", file))["Service"]
    assert int(service["TimeoutStopSec"]) == 121 + 7 + 30


def test_the_units_of_machine_and_user(file: Path) -> None:
    machine = sections(printed("systemd", file, "--account", "llm"))
    assert machine["Service"]["User"] == "llm"
    assert machine["Service"]["RuntimeDirectory"] == "trtdisagg/trtdisagg-mine"
    assert machine["Service"]["Environment"] == "XDG_RUNTIME_DIR=%t/trtdisagg/trtdisagg-mine"
    assert machine["Install"]["WantedBy"] == "multi-user.target"
    user = sections(printed("systemd", file, "--user", "--name", "mine.service"))
    assert not {"User", "RuntimeDirectory", "Environment"} & user["Service"].keys()
    assert user["Install"]["WantedBy"] == "default.target"
    assert "After" not in user["Unit"], "a user's manager has no network-online.target"


def test_odd_names_are_one_word_to_systemd(file: Path) -> None:
    odd = file.with_name('a "b" \\ $c.yaml')
    service = sections(printed("systemd", file, "--program", "/opt/x y$/z%", "--file-at", odd))["Service"]
    directory = str(file.parent).replace("%", "%%")
    quoted = directory.replace("$", "$$") + '/a \\"b\\" \\\\ $$c.yaml'
    assert service["ExecStart"] == f'"/opt/x y$/z%%" up "{quoted}" --no-tui'
    assert service["WorkingDirectory"] == directory


def test_the_program_is_the_one_that_prints(file: Path) -> None:
    program = sections(printed("systemd", file, "--file-at", "/etc/c.yaml"))["Service"]["ExecStart"].split()
    beside = Path(sys.executable).parent / "trtdisagg"
    assert program[: -len(["up", "FILE", "--no-tui"])] in ([str(beside)], [sys.executable, "-m", "trtdisagg"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("options", [["--account", "root"], ["--user"]])
def test_systemd_takes_it(file: Path, tmp_path: Path, options: list[str]) -> None:
    """Also the program's odd name: it looks whether that is there."""
    program = file.parent / "a program of $x 100%"
    program.symlink_to("/bin/true")
    unit = tmp_path / "trtdisagg-test.service"
    unit.write_text(printed("systemd", file, "--program", program, *options))
    assert verified(unit) == (0, "")
    unit.write_text(unit.read_text().replace("OOMPolicy=continue", "OOMPolicy=whatever"))
    assert "OOM policy" in verified(unit)[1], "and would not take anything"
    program.unlink()
    assert verified(unit)[0] == 1


def verified(unit: Path) -> tuple[int, str]:
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


# --- grafana --------------------------------------------------------------------------------------------------------


def exported() -> dict[str, set[str]]:
    """Every series that proxy and engine export when all has happened once, and its labels."""
    pages = [proxy_text(), engine_text()]
    families = [family for page in pages for family in text_string_to_metric_families(page)]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def charts() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] == "timeseries"]


@pytest.mark.anyio
@pytest.mark.parametrize("panel", charts(), ids=lambda panel: panel["title"])
async def test_every_panel_shows_what_is_exported(panel: dict[str, Any]) -> None:
    series = exported()
    for target in panel["targets"]:
        names = re.findall(r"\b(?:trtdisagg|trtllm)_\w+", target["expr"])
        assert names, target
        labels = set.intersection(*(series.get(name, set()) for name in names)) if names else set()
        for name in names:
            assert name in series, f"{name} is not exported"
        used = set(re.findall(r"(\w+)=~", target["expr"]))
        for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
            used |= set(group.split(", "))
        used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert used <= labels, f"{target['expr']}: has {sorted(labels)}"
        assert target["expr"].count("(") == target["expr"].count(")")


def test_panels_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_a_dashboard_is_json() -> None:
    assert json.loads(printed("grafana")) == dashboard()
