"""What the foreground prints: lines, the hint, and how it lives on when nobody reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trtdisagg.cli.foreground import Lines, hint
from trtdisagg.cli.stdout import write_stdout
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.plan import Plan

ROOT = Path(__file__).parents[3]
PLAN = Plan(
    cluster="c",
    file=None,
    servers=[],
    upstream=[],
    proxy=ChildPlan(name="generation-0", role="generation", spec=ProxySpec(cluster="c"), argv=[]),
    supervision=SupervisionConfig(),
    needs={"m": ["generation"]},
    secret_file=None,
    makes_secret=False,
    notices=[],
)


def without_time(text: str) -> str:
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line) for line in text.splitlines())
    return "".join(line[13:] + "\n" for line in text.splitlines())


def test_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Lines(PLAN, of_children=True) as lines:
        lines.event("two\nlines")
        lines.child("generation-0", "says")
    assert without_time(capfd.readouterr().out) == ("agent        | two\nagent        | lines\ngeneration-0 | says\n")


def test_lines_without_children(capfd: pytest.CaptureFixture[str]) -> None:
    with Lines(PLAN, of_children=False) as lines:
        lines.event("up")
        lines.child("generation-0", "says")
    assert without_time(capfd.readouterr().out) == "up\n"


def test_lines_of_the_background_go_to_its_log(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Lines(PLAN, of_children=False, log_file=tmp_path / "agent.log") as lines:
        lines.event("up")
        lines.child("generation-0", "says")
    assert without_time((tmp_path / "agent.log").read_text()) == "up\n"
    assert capfd.readouterr().out == ""
    with Lines(PLAN, of_children=False, log_file=tmp_path / "nowhere" / "agent.log") as unwritable:
        unwritable.event("a log that cannot be written stops nobody")


def test_hint_is_a_command() -> None:
    command = hint(PLAN, "http://h:1").split("\n", 1)[1]
    words = subprocess.run(
        ["/bin/sh", "-c", f"curl() {{ printf '%s\\n' \"$@\"; }}\n{command}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[0] == "http://h:1/v1/chat/completions"
    assert '"model": "m"' in words[-1]


def test_nobody_reads_any_more() -> None:
    """After its reader has gone a program goes on, and ends as it would have."""
    code = (
        "import sys\n"
        "from trtdisagg.cli.stdout import lasting_stdout\n"
        "out = lasting_stdout()\n"
        "for i in range(3): print('x' * 10000, file=out, flush=True)\n"
        "sys.exit(7)"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=write_end,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (7, b"")


def test_a_pipe_that_does_not_wait_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    read: list[bytes] = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(fileno=lambda: write_end))
    monkeypatch.setattr("select.select", lambda *_: read.append(os.read(read_end, 1 << 20)))
    write_stdout(b"x" * 300_000)
    os.close(write_end)
    with open(read_end, "rb") as rest:
        assert len(b"".join(read) + rest.read()) == 300_000


def test_who_reads_slowly_holds_nobody_up() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trtdisagg.cli.foreground import lines_of\n"
        "from unit.cli.test_lines import PLAN\n"
        "with lines_of(PLAN, Path(), on_ready=print) as told:\n"
        "    for i in range(2000): told['on_line']('generation-0', 'x' * 100)\n"
        "    print('done', file=sys.stderr, flush=True)\n"
        "sys.exit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "done\n"
        assert "x" * 100 in process.stdout.read()
    assert process.returncode == 7
