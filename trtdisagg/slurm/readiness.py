"""Waits until the cluster of a job can serve, or why it never will."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from trtdisagg.errors import NotReadyInTimeError, StartupError
from trtdisagg.slurm import folders
from trtdisagg.slurm.commands import JobState, job_state

_LOOK_S = 2.0
"""Between two looks: squeue is asked each time, and many people ask it."""
_NUM_FAILURES = 5
"""So many times in a row Slurm may not answer."""


def wait_until_it_serves(
    folder: Path,
    job_id: str,
    *,
    timeout_s: float | None,
    say: Callable[[str], None],
    look: Callable[[str], JobState] = job_state,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """
    :param timeout_s: None: as long as the job waits for its turn, and starts.
    :param say: told of each change of the job's state.
    :returns: where clients go.
    :raises StartupError: the job has ended, with its last lines, or Slurm does not answer any more.
    :raises NotReadyInTimeError: the deadline passed; the job goes on.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    told = JobState("SUBMITTED")
    num_failures = 0
    while True:
        try:
            now, num_failures = look(job_id), 0
        except StartupError as e:
            now, num_failures = told, num_failures + 1
            if num_failures == _NUM_FAILURES:
                raise StartupError(f"{e}; job {job_id} may go on: see {folder}") from e
        if (url := folders.url(folder)) is not None:
            return url
        if not now.state or folders.exit_code(folder) is not None:
            raise StartupError(_how_it_ended(folder, job_id))
        if now != told:
            say(f"job {job_id}: {now.words}")
            told = now
        if deadline is not None and time.monotonic() > deadline:
            how = f"Job {job_id} cannot serve after {timeout_s:g} s ({now.state})"
            raise NotReadyInTimeError(f"{how}; it goes on, see {folder}")
        sleep(_LOOK_S)


def _how_it_ended(folder: Path, job_id: str) -> str:
    code = folders.exit_code(folder)
    how = "" if code is None else f" with exit code {code}"
    said, logs = f"Job {job_id} has ended{how} before it could serve", folder / "logs"
    if lines := folders.last_lines(folder):
        return f"{said}; its logs are in {logs}" + "".join(f"\n  {line}" for line in lines)
    return (
        f"{said}, and nothing was written to {logs}: it was cancelled before it began, or its nodes do not see that"
        " folder, which has to be on a file system that all share (slurm.output_dir)"
    )
