"""What sbatch is given beside the script."""

from __future__ import annotations

from pathlib import Path

from helpers.slurm_players import make_job

from trtdisagg.slurm.commands import without_overrides
from trtdisagg.slurm.script import render_job


def test_what_the_file_says_means_more_than_variables(tmp_path: Path) -> None:
    """To sbatch it is the other way round."""
    theirs = {"SBATCH_ACCOUNT": "theirs", "SBATCH_TIMELIMIT": "5", "SBATCH_SIGNAL": "KILL", "SBATCH_EXPORT": "NONE"}
    kept = {"SBATCH_PARTITION": "theirs", "SBATCH_CONSTRAINT": "ib", "HOME": "/me"}
    script = render_job(make_job(tmp_path, more='slurm: {account: mine, time: "60"}\n'))
    assert without_overrides({**theirs, **kept}, script) == kept


def test_a_job_that_is_submitted_in_another_has_nothing_of_it() -> None:
    """Else srun in the new one would take them for its options."""
    theirs = {"SLURM_JOB_ID": "7", "SLURM_LABELIO": "1", "SLURM_MEM_PER_CPU": "50", "SRUN_DEBUG": "3"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/me"}
    assert without_overrides({**theirs, **kept}, "") == kept
    own = {"SLURM_MPI_TYPE": "pmix"}
    assert without_overrides(own, "") == own, "what somebody has said outside of jobs"
