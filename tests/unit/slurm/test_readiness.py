"""Waiting for the cluster of a job: what Slurm says over time, and what comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.slurm_players import make_job

from trtdisagg.errors import NotReadyInTimeError, StartupError
from trtdisagg.slurm.commands import JobState
from trtdisagg.slurm.readiness import wait_until_it_serves

PENDING = JobState("PENDING", "Priority")
RUNNING = JobState("RUNNING", "None")
GONE = JobState("")


class Story:
    """What squeue says, one look after the other, and what happens between them."""

    def __init__(self, directory: Path, *looks: JobState | Exception | Callable[[Path], object]) -> None:
        self.job = make_job(directory)
        self._looks = list(looks)
        self.said: list[str] = []

    def look(self, _: str) -> JobState:
        while callable(what := self._looks.pop(0)):
            what(self.job.folder)
        if isinstance(what, Exception):
            raise what
        return what

    def wait(self, timeout_s: float | None = None) -> str:
        return wait_until_it_serves(
            self.job.folder, "7", timeout_s=timeout_s, say=self.said.append, look=self.look, sleep=lambda _: None
        )


def serves(folder: Path) -> None:
    (folder / "url").write_text("http://node01:8000\n")


def ends(folder: Path) -> None:
    (folder / "exit-code").write_text("5\n")
    (folder / "logs" / "0.log").write_text("one\ngeneration-0 has failed\n")


def test_each_change_is_told_once(tmp_path: Path) -> None:
    story = Story(tmp_path, PENDING, PENDING, JobState("PENDING", "Resources"), RUNNING, RUNNING, serves, RUNNING)
    assert story.wait() == "http://node01:8000"
    assert story.said == ["job 7: pending (Priority)", "job 7: pending (Resources)", "job 7: running"]


@pytest.mark.parametrize("after", [RUNNING, GONE], ids=["while its job goes on", "with its job"])
def test_a_cluster_that_ends_is_an_error_with_its_last_lines(tmp_path: Path, after: JobState) -> None:
    story = Story(tmp_path, RUNNING, ends, after)
    with pytest.raises(StartupError) as caught:
        story.wait()
    assert str(caught.value) == (
        "Job 7 has ended with exit code 5 before it could serve; its logs are in "
        f"{story.job.logs}\n  one\n  generation-0 has failed"
    )


@pytest.mark.parametrize("then", [lambda _: None, shutil.rmtree], ids=["no file system of all nodes", "no folder"])
def test_a_job_that_is_gone_without_a_word(tmp_path: Path, then: Callable[[Path], object]) -> None:
    words = (
        "Job 7 has ended before it could serve, and nothing was written to .*/logs: it was cancelled before it began"
    )
    with pytest.raises(StartupError, match=words):
        Story(tmp_path, PENDING, then, GONE).wait()


def test_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(NotReadyInTimeError, match=r"Job 7 cannot serve after 0 s \(PENDING\); it goes on"):
        Story(tmp_path, PENDING).wait(timeout_s=0)


def test_slurm_may_be_silent_for_a_while(tmp_path: Path) -> None:
    silent = StartupError("squeue: no answer")
    story = Story(tmp_path, PENDING, *4 * [silent], PENDING, *4 * [silent], serves, RUNNING)
    assert story.wait() == "http://node01:8000"
    assert story.said == ["job 7: pending (Priority)"]


def test_but_not_for_ever(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no answer; job 7 may go on"):
        Story(tmp_path, *5 * [StartupError("squeue: no answer")]).wait()
