"""`trtdisagg slurm`: a cluster as a Slurm job, a command for each thing in the module of its name."""

from __future__ import annotations

import click

from trtdisagg.cli.lazy import LazyGroup

COMMANDS = {
    "submit": "Submit a job that runs a cluster, and wait until it can serve.",
    "sweep": "Measure variants of a cluster, each in a Slurm job of its own.",
    "render": "Print what `submit` would write and run, without Slurm.",
}
"""Name and first sentence of help."""


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def command() -> None:
    """Run a cluster as a Slurm job.

    On one node or several. What is asked of Slurm stands in the cluster file, under `slurm:`, or is said by options.
    """
