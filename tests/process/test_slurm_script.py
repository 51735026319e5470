"""The batch script of a job, run by bash with programs that play Slurm and the cluster."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.slurm_players import PlayedJob

_TIMEOUT_S = 20


@pytest.fixture
def job(tmp_path: Path) -> Iterator[PlayedJob]:
    it = PlayedJob(tmp_path / "a 100% path")
    with it.process:
        yield it
        it.process.kill()


def test_what_is_run_on_each_node(job: PlayedJob) -> None:
    job.end("0")
    assert job.process.wait(_TIMEOUT_S) == 0
    step, run = job.log
    folder = job.job.folder
    assert run == f"trtdisagg up --srun {folder}/cluster.yaml --run-dir {folder} --rendezvous {folder}/nodes --no-tui"
    assert step.endswith(f"/trtdisagg {run.removeprefix('trtdisagg ')}")
    assert {"--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--ntasks-per-node=1"} <= set(step.split())
    assert f"--output={folder}/logs/%t.log".replace("100%", "100%%") in step


def test_the_signal_before_the_end_drains(job: PlayedJob) -> None:
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(_TIMEOUT_S) == 0
    assert job.log[2:] == [f"down down {job.job.file}"]


def test_where_no_agent_answers_yet_slurm_passes_the_signal_on(job: PlayedJob) -> None:
    (job.directory / "deaf").touch()
    job.process.send_signal(signal.SIGTERM)
    job.until("asked")
    assert job.process.wait(_TIMEOUT_S) == 0, "143 is how that ends well"
    assert job.log[3:] == ["squeue --noheader --jobs=7 --format=%T", "scancel --signal=TERM 7.0"]


def test_where_all_of_the_job_ends_the_servers_know_it_already(job: PlayedJob) -> None:
    (job.directory / "deaf").touch()
    (job.directory / "state").write_text("COMPLETING|None\n")
    job.process.send_signal(signal.SIGTERM)
    job.until("asked")
    job.end("143")
    assert job.process.wait(_TIMEOUT_S) == 0, "SIGTERM is how it is asked to end"
    assert not any("scancel" in line for line in job.log), "a second signal would kill"


def test_the_exit_code_of_the_cluster_is_the_jobs(job: PlayedJob) -> None:
    job.end("5")
    assert job.process.wait(_TIMEOUT_S) == 5


@pytest.mark.parametrize(("of_srun", "of_the_job"), [("137", 137), ("0", 1)])
def test_a_cluster_that_could_not_tell_how_it_ended_has_failed(job: PlayedJob, of_srun: str, of_the_job: int) -> None:
    """srun's exit code is 0 where the node was lost."""
    job.end(f"{of_srun} silent")
    _, said = job.process.communicate(timeout=_TIMEOUT_S)
    assert job.process.returncode == of_the_job
    assert f"it was killed, or never began. srun: exit code {of_srun}" in said


def test_an_exit_code_of_a_run_before_is_not_believed(tmp_path: Path) -> None:
    """A job that an administrator has requeued has the same folder."""
    it = PlayedJob(tmp_path)
    with it.process:
        it.end("0")
        it.process.wait(_TIMEOUT_S)
    (it.job.folder / "url").write_text("http://old\n")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(it.job.script)], env=env, stderr=subprocess.DEVNULL) as again:
        (tmp_path / "up").read_text()
        assert not (it.job.folder / "exit-code").exists()
        assert not (it.job.folder / "url").exists()
        it.end("9 silent")
        assert again.wait(_TIMEOUT_S) == 9


# --- a load beside the cluster --------------------------------------------------------------------------------------


@pytest.fixture
def loaded_job(tmp_path: Path) -> Iterator[PlayedJob]:
    it = PlayedJob(tmp_path, load_command=[str(tmp_path / "trtdisagg"), "load", "a b"])
    with it.process:
        yield it
        it.process.kill()


@pytest.mark.parametrize("code", [0, 3])
def test_a_load_begins_when_the_cluster_serves_and_ends_it(loaded_job: PlayedJob, code: int) -> None:
    (loaded_job.job.folder / "url").write_text("http://node01:1234\n")
    (loaded_job.directory / "load-end").write_text(f"{code}\n")
    assert loaded_job.process.wait(_TIMEOUT_S) == code
    assert "load load a b --url http://node01:1234" in loaded_job.log
    assert loaded_job.log[-1] == f"down down {loaded_job.job.file}"


def test_without_a_cluster_there_is_no_load(loaded_job: PlayedJob) -> None:
    loaded_job.end("4")
    assert loaded_job.process.wait(_TIMEOUT_S) == 4
    assert not any(line.startswith("load") for line in loaded_job.log)
