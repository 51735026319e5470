"""The batch script that `generate slurm` prints, run by bash with programs that play Slurm and the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtdisagg.cli.generate.slurm import script
from trtdisagg.cli.generate.subject import Subject

PLAYERS = {
    # Whatever it is told, it starts the program; a signal would kill the servers, and be the end of the test.
    "srun": 'echo "srun $*" >> log; trap "echo srun got a signal >> log; exit 137" TERM HUP INT; while [[ $1 == -* ]]; '
    'do shift; done; "$@" & wait $!',
    # A cluster that runs until it is told its exit code.
    "trtdisagg": 'echo "trtdisagg $*" >> log; case $1 in up) echo > up; exit "$(cat end)";; '
    "down) [ -e deaf ] && exit 3; echo 0 > end;; esac",
    "scancel": 'echo "scancel $*" >> log; echo 143 > end',
}


class Job:
    """The batch script, running, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in PLAYERS.items():
            path = directory / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        for name in ("end", "up"):
            os.mkfifo(directory / name)
        of = Subject(
            name="c", file=directory / "a file.yaml", program=[str(directory / "trtdisagg")], port=8000, stop_s=40
        )
        (directory / "job.sbatch").write_text(script(of, "job", time="10", cpus=4, gpus=2))
        env = {
            **os.environ,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_ON_NODE": "4",
        }
        self.process = subprocess.Popen(
            ["bash", "job.sbatch"], cwd=directory, env=env, stdout=subprocess.PIPE, text=True
        )
        (directory / "up").read_text()  # until it is up

    def end(self, code: int) -> None:
        (self.directory / "end").write_text(f"{code}\n")

    @property
    def log(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    it = Job(tmp_path)
    with it.process:
        yield it
        it.process.kill()


def test_the_signal_before_the_end_drains(job: Job) -> None:
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(20) == 0, "the exit code of srun, not 143"
    file = job.directory / "a file.yaml"
    assert job.log == [
        f"srun --ntasks=1 --cpus-per-task=4 {job.directory}/trtdisagg up {file} --no-tui",
        f"trtdisagg up {file} --no-tui",
        f"trtdisagg down {file}",
    ]


def test_where_no_agent_answers_yet_slurm_passes_the_signal_on(job: Job) -> None:
    (job.directory / "deaf").touch()
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(20) == 143
    assert job.log[-1] == "scancel --signal=TERM 7.0"


def test_the_exit_code_of_the_cluster_is_the_jobs(job: Job) -> None:
    job.end(5)
    assert job.process.wait(20) == 5


def test_what_is_asked_of_slurm(job: Job) -> None:
    job.end(0)
    asked = [line for line in (job.directory / "job.sbatch").read_text().splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --signal=B:TERM@100" in asked, "40 s to stop, and what Slurm may be early"
    assert {"#SBATCH --cpus-per-task=4", "#SBATCH --gres=gpu:2", "#SBATCH --time=10"} <= set(asked)
    assert "#SBATCH --exclusive" not in asked
