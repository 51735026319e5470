"""`trtdisagg slurm`, with programs that play Slurm's commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.slurm_players import CLUSTER_FILE, put_players

from trtdisagg.cli.main import cli
from trtdisagg.cli.slurm.options import overrides_of, slurm_options
from trtdisagg.config import shape
from trtdisagg.config.load import load
from trtdisagg.config.slurm_keys import ContainerConfig, SlurmConfig

SBATCH = 'echo "sbatch $*" >> "$here/log"; echo "${answer:-7}"'
SERVES = """\
echo "squeue $*" >> "$here/log"
echo http://node01:1234 > "$here"/slurm-runs/c-001/url
echo "RUNNING|None"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CLUSTER_FILE)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


def slurm(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["slurm", *map(str, args)])


# --- options --------------------------------------------------------------------------------------------------------


def test_every_key_has_an_option() -> None:
    @slurm_options
    def nothing() -> None: ...

    there = {option.name for option in nothing.__click_params__}  # type: ignore[attr-defined]
    mine = {key for key in shape.keys(SlurmConfig) if key != "container"}
    assert there == mine | {f"container_{key}" for key in shape.keys(ContainerConfig)}


def test_options_win_over_the_file(file: Path) -> None:
    file.write_text(CLUSTER_FILE + "slurm: {partition: a, account: b, setup: [x], env: {A: b}}\n")
    given = dict.fromkeys([*shape.keys(SlurmConfig), "container_mounts", "container_workdir"])
    given |= {
        "partition": "gpu",
        "time": "30",
        "nodes": "4",
        "gpus_per_node": "h200:8",
        "setup": ("m: [a", "b"),
        "env": ("B=c=d", "E="),
        "extra_args": (),
        "container_image": "r#i:1",
        "container_mounts": ("/a:/b",),
    }
    config = load(file, overrides_of(given)).cluster.slurm  # type: ignore[arg-type]
    assert config == SlurmConfig(
        partition="gpu",
        account="b",
        time="30",
        nodes=4,
        gpus_per_node="h200:8",
        setup=["m: [a", "b"],
        env={"A": "b", "B": "c=d", "E": ""},
        container=ContainerConfig(image="r#i:1", mounts=["/a:/b"]),
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env", "A"], "'A': expected NAME=VALUE"),
        (["--time", "soon"], "slurm.time: 'soon': not a time"),
        (["--nodes", "none"], "slurm.nodes: expected int"),
        (["--no-wait", "--wait-timeout", "3"], "contradict each other"),
    ],
)
def test_wrong_options(file: Path, args: list[str], message: str) -> None:
    result = slurm("submit", file, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is written"


# --- render ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["render"], ["submit", "--dry-run"]], ids=" ".join)
def test_all_is_printed_and_nothing_done(file: Path, args: list[str]) -> None:
    result = slurm(*args, file, "--gpus-per-node", "1", "--set", "hostname=0.0.0.0")
    assert result.exit_code == 0, result.output
    folder = file.parent / "slurm-runs" / "c-001"
    assert f"### {folder}/cluster.yaml\n# {file}, as submitted\nname: c\nmodel: m\nhostname: 0.0.0.0" in result.stdout
    assert f"### {folder}/job.sbatch\n#!/bin/bash\n" in result.stdout
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n" in result.stdout, "a GPU for each of the two servers"
    assert result.stdout.endswith(f"sbatch --parsable {folder}/job.sbatch\n")
    assert result.stderr == ""
    assert not folder.parent.exists()


def test_what_may_surprise_is_told(file: Path) -> None:
    said = slurm("render", file).stderr
    assert "the proxy listens on localhost, where only the job's first node reaches it" in said
    assert "no GPUs are asked for" in said


# --- submit ---------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_and_waited_for(file: Path) -> None:
    put_players(file.parent, {"sbatch": SBATCH, "squeue": SERVES})
    result = slurm("submit", file)
    folder = file.parent / "slurm-runs" / "c-001"
    assert (result.exit_code, result.stdout) == (0, "http://node01:1234\n")
    assert f"job 7: {folder}" in result.stderr
    assert (file.parent / "log").read_text().splitlines() == [
        f"sbatch --parsable {folder}/job.sbatch",
        "squeue --noheader --jobs=7 --format=%T|%r",
    ]
    assert (folder / "job-id").read_text() == "7\n"
    assert subprocess.run(["bash", "-n", folder / "job.sbatch"], check=False).returncode == 0


def test_without_waiting_the_id_is_printed(file: Path) -> None:
    put_players(file.parent, {"sbatch": 'echo "7;a_cluster"'})
    result = slurm("submit", file, "--no-wait")
    assert (result.exit_code, result.stdout) == (0, "7\n")


@pytest.mark.parametrize(
    ("players", "message"),
    [
        ({}, "There is no sbatch on this machine: submit from a node that has Slurm's commands"),
        ({"sbatch": "echo 'sbatch: error: Invalid qos' >&2; exit 1"}, "trtdisagg: error: sbatch: Invalid qos"),
        ({"sbatch": "echo hello"}, "sbatch has not said the job's id, but: 'hello'"),
        (
            {"sbatch": SBATCH, "squeue": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"},
            "Job 7 has ended before it could serve",
        ),
    ],
)
def test_what_slurm_refuses(file: Path, players: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_players(file.parent, {**players, "none": ""})
    monkeypatch.setenv("PATH", f"{file.parent}:/bin" if players else str(file.parent))
    result = slurm("submit", file)
    assert result.exit_code == 1
    assert message in result.stderr
    assert any(file.parent.glob("slurm-runs/*")) is ("squeue" in players), "of a job that is refused there is no folder"
