"""`trtdisagg slurm submit`."""

from __future__ import annotations

import shutil
from typing import Any

import click
from msgspec.structs import replace

from trtdisagg.cli.slurm.asked import about_a_job, job_for, loaded_for, surprises
from trtdisagg.cli.slurm.render import render
from trtdisagg.cli.terminal import say
from trtdisagg.errors import StartupError
from trtdisagg.slurm import commands, folders
from trtdisagg.slurm.job import Job
from trtdisagg.slurm.readiness import wait_until_it_serves


@click.command()
@about_a_job
@click.option("--dry-run", is_flag=True, help="Only print what would be written and run, as `render` does.")
@click.option("--no-wait", is_flag=True, help="Return when Slurm has taken the job, and print its id.")
@click.option("--wait-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait, but not longer.")
def command(
    *,
    file: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    wait_timeout: float | None,
    **options: Any,
) -> None:
    """Submit a job that runs a cluster, and wait until it can serve.

    Prints where clients go. Everything of the run is in a folder of its own: the cluster file as submitted, the batch
    script, the logs. `scancel --batch --signal=TERM JOB` drains the cluster and ends the job.
    """
    loaded = loaded_for(file, overrides, options)
    if dry_run:
        render(loaded)
        return
    if no_wait and wait_timeout is not None:
        raise click.UsageError("--wait-timeout and --no-wait contradict each other")
    job = job_for(loaded, folders.next_folder(loaded))  # may fail, and nothing is written yet
    job = replace(job, folder=folders.make_folder(loaded))
    folders.fill(job, loaded)
    say(*loaded.no_effect, *surprises(loaded))
    job_id = _submitted(job)
    folders.keep_job_id(job.folder, job_id)
    say(f"job {job_id}: {job.folder}")
    if no_wait:
        click.echo(job_id)
        return
    try:
        click.echo(wait_until_it_serves(job.folder, job_id, timeout_s=wait_timeout, say=say))
    except KeyboardInterrupt:
        say(f"job {job_id} goes on, and {job.folder / 'url'} will say where clients go; `scancel {job_id}` ends it")
        raise


def _submitted(job: Job) -> str:
    """
    :returns: its id.
    :raises StartupError: Slurm refuses it, and there is no folder of it.
    """
    try:
        return commands.submit(job.script)
    except StartupError:
        shutil.rmtree(job.folder, ignore_errors=True)  # a job that was taken, and nobody told, ends without it
        raise
