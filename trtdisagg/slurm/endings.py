"""Waits for the ends of several jobs, each of which runs by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from trtdisagg.errors import StartupError
from trtdisagg.slurm.commands import JobState, job_state

_LOOK_S = 5.0
"""Between two looks: squeue is asked for each job that is there, and many people ask it."""
_NUM_FAILURES = 5
"""So many times in a row Slurm may not answer."""


def endings(
    jobs: Mapping[str, str],
    *,
    say: Callable[[str], None],
    look: Callable[[str], JobState] = job_state,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Names of jobs, each when its job has ended.

    :param jobs: ids, by name.
    :param say: told of each change of a job's state.
    :raises StartupError: Slurm does not answer any more.
    """
    told: dict[str, JobState] = {}
    left = dict(jobs)
    num_failures = 0
    while left:
        for name, job_id in list(left.items()):
            try:
                now, num_failures = look(job_id), 0
            except StartupError as e:
                num_failures += 1
                if num_failures == _NUM_FAILURES * len(left):
                    raise StartupError(f"{e}; jobs may go on: {', '.join(left.values())}") from e
                continue
            if now.state and now != told.get(name):
                say(f"{name}: job {job_id} is {now.words}")
            told[name] = now
            if not now.state:
                del left[name]
                yield name
        if left:
            sleep(_LOOK_S)
