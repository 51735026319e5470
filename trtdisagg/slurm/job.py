"""The Slurm job of a cluster file: what is asked of Slurm, and what runs in it. Pure.

Knows no Slurm commands and writes nothing: `script` makes the batch script of a job, `folders` the folder of its run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trtdisagg.config.load import Loaded
from trtdisagg.config.slurm_keys import SlurmConfig
from trtdisagg.errors import ConfigError

EARLY_S = 60
"""Slurm may send its signal so much earlier than it was asked to."""
_MAX_NOTICE_S = 65535
"""What Slurm takes."""


class Job(msgspec.Struct, kw_only=True, frozen=True):
    """One job that runs one cluster."""

    cluster: str
    folder: Path
    """Of this run, on a file system that all nodes share: absolute."""
    origin: Path
    """The directory that the cluster file came from."""
    program: list[str]
    """How trtdisagg is called on the nodes."""
    settings: SlurmConfig
    num_nodes: int
    notice_s: int
    """So long before the end of its time the cluster is drained."""
    load: list[str] = []
    """A command that runs on the first node when the cluster can serve, with `--url URL` added; at its end the cluster
    is taken down, and its exit code is the job's. Empty: the cluster serves until it is told to end."""

    @property
    def name(self) -> str:
        return self.settings.job_name or f"trtdisagg-{self.cluster}"

    @property
    def file(self) -> Path:
        """The cluster file, as it was submitted."""
        return self.folder / "cluster.yaml"

    @property
    def script(self) -> Path:
        return self.folder / "job.sbatch"

    @property
    def logs(self) -> Path:
        """The batch script's `job.log`, and `N.log` of the task with that number."""
        return self.folder / "logs"

    @property
    def num_gpus(self) -> int:
        """Of each node."""
        return num_gpus(self.settings)


def plan_job(loaded: Loaded, folder: Path, *, num_nodes: int, program: Sequence[str], load: Sequence[str] = ()) -> Job:
    """
    :param folder: of the run, absolute.
    :param num_nodes: that the servers need; the file may say another number.
    :param program: how trtdisagg is called here.
    :param load: see `Job.load`.
    :raises ConfigError: the job is too short or too small to serve, or a folder has no name for Slurm.
    """
    settings = loaded.cluster.slurm
    _check_name("output_dir", folder, "\\\n,:" if settings.container else "\\\n")
    if settings.container:
        _check_name("container", loaded.path.parent, ",:")
    rules = loaded.cluster.supervision
    notice_s = min(math.ceil(rules.drain_timeout_s + rules.kill_timeout_s) + EARLY_S, _MAX_NOTICE_S)
    if settings.time is not None and seconds(settings.time) <= notice_s:
        raise ConfigError(
            f"slurm.time: {settings.time} is not longer than the {notice_s} s before its end in which the cluster is"
            " drained (supervision.drain_timeout_s and kill_timeout_s, and 60 s that Slurm may be early)"
        )
    if settings.nodes is not None and settings.nodes < num_nodes:
        raise ConfigError(
            f"slurm.nodes: {settings.nodes}, but the servers need {num_nodes} nodes of {num_gpus(settings)} GPUs"
        )
    return Job(
        cluster=loaded.name,
        folder=folder,
        origin=loaded.path.parent,
        program=settings.program or (["trtdisagg"] if settings.container else list(program)),
        settings=settings,
        num_nodes=settings.nodes or num_nodes,
        notice_s=notice_s,
        load=list(load),
    )


def _check_name(key: str, folder: Path, misread: str) -> None:
    if odd := next((char for char in str(folder) if char in misread), None):
        raise ConfigError(f"slurm.{key}: Slurm would misread the {odd!r} of {str(folder)!r}")


def num_gpus(settings: SlurmConfig) -> int:
    """GPUs on each node, of which `gpus_per_node` may say the type as well."""
    asked = settings.gpus_per_node
    return asked if isinstance(asked, int) else int(asked.rpartition(":")[2])


def seconds(time: str) -> int:
    """Of a time as Slurm writes it: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, and with days before it
    DAYS-HOURS, DAYS-HOURS:MINUTES, DAYS-HOURS:MINUTES:SECONDS."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, secs = [*parts, 0, 0][:3]
    else:
        hours, minutes, secs = [0, *parts, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
