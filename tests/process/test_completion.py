"""What the shell completes, asked of bash with the script that `trtdisagg completion` prints."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cluster import TRTDISAGG, environment
from helpers.waiting import DEADLINE_S

from trtdisagg.cli.main import COMMANDS
from trtdisagg.files import write_whole
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.place import Place


class Shell:
    """bash that has sourced the script, in a directory with a few files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = directory / "bin" / "trtdisagg"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.join(TRTDISAGG)} "$@"\n')
        program.chmod(0o755)
        self.env = environment(directory)
        self.env["PATH"] = f"{program.parent}:{self.env['PATH']}"

    def complete(self, line: str) -> list[str]:
        """What is offered for the last word of a line."""
        words = shlex.split(line) + ([""] if line.endswith(" ") else [])
        code = (
            "source <(trtdisagg completion bash)\n"
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
            'compopt() { echo "compopt $1 $2"; }\n'  # the real one works only while a key is pressed
            "_trtdisagg_completion trtdisagg\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", code],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()


FILES = "compopt -o default"
"""bash is asked to complete files."""


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory() as directory:
        it = Shell(Path(directory))
        place = Place.of(Path(directory) / "cluster.yaml", "completed-1", it.env)
        stopped = Place.of(Path(directory) / "other.yaml", "completed-2", it.env)
        rundir.make_log_dir(stopped)
        with rundir.hold(place, "run"):
            rundir.make_log_dir(place)
            for name in ("completed.context-0", "completed.context-1", "completed.generation-0", "proxy"):
                write_whole(place.spec_file(name), b"{}")
                place.log_file(name).touch()
            place.log_file("agent").touch()
            rundir.make_secret(place)
            yield it


def test_commands(shell: Shell) -> None:
    assert shell.complete("trtdisagg ") == list(COMMANDS)
    assert shell.complete("trtdisagg sta") == ["status"]
    assert shell.complete("trtdisagg generate ") == ["api-key", "grafana", "systemd"]


def test_options(shell: Shell) -> None:
    assert shell.complete("trtdisagg status --j") == ["--json"]
    assert shell.complete("trtdisagg completion ") == ["bash", "zsh", "fish"]


def test_clusters_that_run_and_files(shell: Shell) -> None:
    """Others of this user may run on this machine."""
    assert shell.complete("trtdisagg down completed-") == [FILES, "completed-1"]
    assert shell.complete("trtdisagg ps completed-") == [FILES, "completed-1"]
    assert shell.complete("trtdisagg status completed-2") == [FILES, ""]
    assert shell.complete("trtdisagg check ") == [FILES, ""]


def test_servers(shell: Shell) -> None:
    assert shell.complete("trtdisagg logs cluster.yaml completed.con") == [
        FILES,
        "completed.context-0",
        "completed.context-1",
    ]
    assert {"agent", "proxy", "completed.generation-0"} <= set(shell.complete("trtdisagg logs "))


def test_a_command_that_is_not_there_is_no_traceback(shell: Shell) -> None:
    assert shell.complete("trtdisagg no-such ") == list(COMMANDS)


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(kind: str) -> None:
    command = [*TRTDISAGG, "completion", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert f"_TRTDISAGG_COMPLETE={kind}_complete" in done.stdout
    assert done.stderr == ""


def test_the_answer_loads_nothing_heavy() -> None:
    code = (
        "import sys; from trtdisagg.cli.names import complete_cluster; complete_cluster(None, None, ''); "
        "print(sorted({'torch', 'aiohttp', 'rich', 'asyncio', 'yaml', 'psutil', 'anyio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "[]\n"
