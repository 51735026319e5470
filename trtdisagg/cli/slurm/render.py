"""`trtdisagg slurm render`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from trtdisagg.cli.slurm.asked import about_a_job, job_for, loaded_for, surprises
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import Loaded
from trtdisagg.slurm.folders import next_folder, submitted
from trtdisagg.slurm.script import render_job


@click.command()
@about_a_job
def command(file: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Print what `submit` would write and run, without Slurm.

    That is the cluster file of the run, the batch script and the command.
    """
    render(loaded_for(file, overrides, options))


def render(loaded: Loaded) -> None:
    job = job_for(loaded, next_folder(loaded))
    click.echo(f"### {job.file}\n{submitted(loaded)}\n### {job.script}\n{render_job(job)}\n### the command")
    click.echo(f"sbatch --parsable {shlex.quote(str(job.script))}")
    say(*loaded.no_effect, *surprises(loaded))
