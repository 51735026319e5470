"""What `submit` and `render` are about: a cluster file, and what is said beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from trtdisagg.cli.find import cluster_file, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.program import this_program
from trtdisagg.cli.slurm.options import overrides_of, slurm_options
from trtdisagg.config.load import Loaded, load
from trtdisagg.net import is_loopback
from trtdisagg.slurm.job import Job, num_gpus, plan_job
from trtdisagg.supervisor.nodes.assign import nodes_needed


def about_a_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE, --set, and an option for each key of `slurm:`; see `loaded_for`."""
    for option in (slurm_options, set_option, click.argument("file", required=False, shell_complete=complete_file)):
        command = option(command)
    return command


def loaded_for(file: str | None, overrides: Sequence[str], options: dict[str, Any]) -> Loaded:
    """
    :param options: of `slurm_options`.
    :raises ConfigError: the cluster file is missing or wrong.
    """
    return load(cluster_file((file,)), (*overrides, *overrides_of(options)))


def job_for(loaded: Loaded, folder: Path, load: Sequence[str] = ()) -> Job:
    """
    :param folder: of the run.
    :param load: see `Job.load`.
    :raises StartupError: no number of nodes of this kind is enough for the servers.
    """
    needed = nodes_needed(loaded.cluster, num_gpus(loaded.cluster.slurm))
    return plan_job(loaded, folder, num_nodes=needed, program=this_program(), load=load)


def surprises(loaded: Loaded) -> list[str]:
    """What people should know of a job that is right, and perhaps not what they mean."""
    said = []
    if is_loopback(loaded.cluster.hostname):
        said.append(
            f"the proxy listens on {loaded.cluster.hostname}, where only the job's first node reaches it;"
            " `--set hostname=0.0.0.0` lets others in"
        )
    if num_gpus(loaded.cluster.slurm) == 0:
        said.append("no GPUs are asked for (slurm.gpus_per_node), so servers run on CPUs")
    return said
