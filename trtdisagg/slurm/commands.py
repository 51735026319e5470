"""Slurm's own commands, as far as a job is submitted and watched: each with a deadline, and its words in errors."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from trtdisagg.config.slurm_checks import OURS
from trtdisagg.errors import StartupError

_SPELT = {"--array": "SBATCH_ARRAY_INX", "--mem": "SBATCH_MEM_PER_NODE", "--time": "SBATCH_TIMELIMIT"}
"""Options whose variables are called otherwise."""
_CONFIGURATION = "SLURM_CONF"
_TIMEOUT_S = 60.0
"""Slurm's controller may be busy; its own commands give up after some 100 s."""


class JobState(msgspec.Struct, frozen=True):
    """What squeue says of a job."""

    state: str
    """PENDING, RUNNING, ...; empty: Slurm does not list it any more."""
    reason: str = ""
    """Why it does not run."""

    @property
    def words(self) -> str:
        reason = f" ({self.reason})" if self.state == "PENDING" and self.reason not in ("", "None") else ""
        return self.state.lower() + reason


def submit(script: Path) -> str:
    """
    :returns: the job's id.
    :raises StartupError: when there is no Slurm here, or it refuses.
    """
    said = _run("sbatch", "--parsable", str(script), env=without_overrides(os.environ, script.read_text()))
    match = re.fullmatch(r"(\d+)(;\S+)?", said.splitlines()[-1].strip() if said.strip() else "")
    if not match:
        raise StartupError(f"sbatch has not said the job's id, but: {said.strip()!r}")
    return match[1]


def job_state(job_id: str) -> JobState:
    """
    :raises StartupError: when Slurm does not answer.
    """
    try:
        said = _run("squeue", "--noheader", f"--jobs={job_id}", "--format=%T|%r").strip()
    except StartupError as e:
        if "Invalid job id" in str(e):  # forgotten: it ended some minutes ago
            return JobState("")
        raise
    state, _, reason = said.partition("|")
    return JobState(state, reason)


def without_overrides(env: Mapping[str, str], script: str) -> dict[str, str]:
    """An environment without the variables that to sbatch mean more than what stands in a script: of sites' defaults,
    `SBATCH_PARTITION`, those stay for which it asks for nothing else, and that are not what it is made for. Nor has it
    those of a job that this is part of, which would be options of `srun` in the new one (`SLURM_LABELIO`)."""
    options = {*re.findall(r"^#SBATCH (--[a-z-]+)", script, flags=re.MULTILINE), *OURS}
    spelt = {_SPELT.get(option, f"SBATCH_{option[2:].upper().replace('-', '_')}") for option in options}
    of_a_job = ("SLURM_", "SLURMD_", "SRUN_") if "SLURM_JOB_ID" in env else ()
    return {
        name: value
        for name, value in env.items()
        if name == _CONFIGURATION or not (name in spelt or name.startswith(of_a_job))
    }


def _run(*argv: str, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=env)
    except FileNotFoundError:
        raise StartupError(
            f"There is no {argv[0]} on this machine: submit from a node that has Slurm's commands, or take what"
            " `trtdisagg slurm render` prints there"
        ) from None
    except subprocess.TimeoutExpired:
        raise StartupError(f"{argv[0]} has not answered in {_TIMEOUT_S:g} s; does Slurm's controller run?") from None
    if done.returncode != 0:
        said = done.stderr.strip().removeprefix(f"{argv[0]}: error: ")
        raise StartupError(f"{argv[0]}: {said or f'exit code {done.returncode}'}")
    return done.stdout
