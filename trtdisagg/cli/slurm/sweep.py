"""`trtdisagg slurm sweep`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from msgspec.structs import replace

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.bench.sweep.sweep import Sweep, Variant
from trtdisagg.cli.bench.report import tell_report
from trtdisagg.cli.bench.sweep import new_folder
from trtdisagg.cli.bench.sweep_options import check_only, loaded_variants, read_sweep, sweep_options
from trtdisagg.cli.find import set_option
from trtdisagg.cli.slurm.asked import job_for
from trtdisagg.cli.slurm.options import overrides_of, slurm_options
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import Loaded
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.slurm import commands, folders
from trtdisagg.slurm.endings import endings
from trtdisagg.slurm.job import Job, num_gpus
from trtdisagg.slurm.script import render_job
from trtdisagg.supervisor.division import num_ranks
from trtdisagg.supervisor.slots import slots

_ANY_PORT = "port=0"
"""Jobs of several variants may share a node."""
_OF_ONE_RUN = ("run_name", "output_dir")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@sweep_options
@slurm_options
@set_option
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="A new folder. [default: sweep-DATE-TIME]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with the sweep in this folder.")
@click.option("--only", multiple=True, metavar="NAME", help="Of all variants, this one; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Only print what would be written and run.")
@click.option("--no-wait", is_flag=True, help="Return when Slurm has taken the jobs.")
def command(
    *,
    file: Path | None,
    directory: Path | None,
    resume: Path | None,
    only: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    overrides: tuple[str, ...],
    **said: Any,
) -> int:
    """Measure variants of a cluster, each in a Slurm job of its own.

    FILE is a sweep file as `bench sweep` takes it; what is asked of Slurm stands in the cluster files, under `slurm:`,
    or is said by options. Each job brings its variant up, puts all loads on it and ends. The folder, which all nodes
    must see, is as that of `bench sweep`: the report is drawn when the last job has ended, or by `bench report`.
    """
    from trtdisagg.bench.sweep.look import check_there

    check_there()
    given = (*overrides, *overrides_of(said))
    if resume:
        if file or directory or given or dry_run or any(said.values()):
            raise ConfigError(f"--resume {resume}: the sweep is the one in it; beside it there is only --only")
        folder = Folder.open(resume)
        check_only(only, folder.sweep)
    else:
        planned = _plan(file, said, given, (directory or new_folder()).absolute())
        check_only(only, planned.sweep)
        if dry_run:
            _print([job for name, job in planned.jobs.items() if not only or name in only])
            return 0
        folder = _create(planned)
    say(f"in {folder.path}")
    names = [v.name for v in folder.sweep.variants if not only or v.name in only]
    ids = _submitted(folder, names)
    if not no_wait:
        _collect(folder, ids)
    measured_later = ids if no_wait else {}
    return 1 if any(folder.missing(name) and name not in measured_later for name in names) else 0


class _Planned(NamedTuple):
    """A sweep in jobs, before anything of it is written.

    :ivar path: of its folder.
    """

    path: Path
    sweep: Sweep
    loaded: Mapping[str, Loaded]
    jobs: Mapping[str, Job]


def _plan(file: Path | None, said: dict[str, Any], given: Sequence[str], path: Path) -> _Planned:
    """
    :param said: all options.
    :param given: overrides for every cluster file.
    :raises ConfigError: what does not hold together.
    """
    for key in _OF_ONE_RUN:
        if said[key]:
            raise click.UsageError(f"--{key.replace('_', '-')} is for `slurm submit`; here, --dir names the folder")
    sweep = read_sweep(file, said)
    loaded = loaded_variants(sweep, [_ANY_PORT, *given])
    jobs = {variant.name: _job(path, variant, loaded) for variant in sweep.variants}
    return _Planned(path, sweep, loaded, jobs)


def _job(path: Path, variant: Variant, loaded: Mapping[str, Loaded]) -> Job:
    """One that brings a variant up and measures it, in the variant's folder.

    :param path: of the sweep.
    :raises ConfigError: the variant needs none.
    """
    if variant.name not in loaded:
        raise ConfigError(f"{variant.name} has a `url`, so it runs already: `bench sweep` measures it without a job")
    job = job_for(loaded[variant.name], path / variant.name)
    settings = job.settings
    if box := settings.container:  # in it the load reads and writes the sweep's folder as well
        settings = replace(settings, container=replace(box, mounts=[*box.mounts, f"{path}:{path}"]))
    load = [*job.program, "bench", "sweep", "--resume", str(path), "--only", variant.name]
    return replace(job, load=load, settings=replace(settings, job_name=f"{job.name}-{variant.name}"))


def _print(jobs: list[Job]) -> None:
    for job in jobs:
        click.echo(f"### {job.script}\n{render_job(job)}")


def _create(planned: _Planned) -> Folder:
    """The sweep's folder, with that of each job in it."""
    path, sweep, loaded, jobs = planned
    variants = [_measured_by(variant, jobs[variant.name], loaded[variant.name]) for variant in sweep.variants]
    folder = Folder.create(path, replace(sweep, variants=variants), {})
    for name, job in jobs.items():
        folders.fill(job, loaded[name])
    return folder


def _measured_by(variant: Variant, job: Job, loaded: Loaded) -> Variant:
    """The same, with what it runs on, in case its cluster cannot be asked from where the load is."""
    if num_gpus(job.settings):
        return replace(variant, num_gpus=sum(num_ranks(slot.section) for slot in slots(loaded.cluster)))
    return replace(variant, num_cores=job.num_nodes * (job.settings.cpus_per_task or 0))


def _submitted(folder: Folder, names: list[str]) -> dict[str, str]:
    """
    :param names: of variants.
    :returns: by those that are not done, ids of jobs: of one that is there still, the same. Those that Slurm refuses
        have failed, and the others go on.
    """
    ids = {}
    for name in names:
        if not folder.missing(name):
            say(f"{name}: done before")
            continue
        job_id = folders.job_id(folder.of(name))
        if job_id is None or not commands.job_state(job_id).state:
            folder.write_failure(name, None)
            folders.put_logs_aside(folder.of(name))
            try:
                job_id = commands.submit(folder.of(name) / "job.sbatch")
            except StartupError as e:
                folder.write_failure(name, e.message)
                say(f"{name}: {e}")
                continue
            folders.keep_job_id(folder.of(name), job_id)
        say(f"{name}: job {job_id}")
        ids[name] = job_id
    return ids


def _collect(folder: Folder, ids: Mapping[str, str]) -> None:
    """Wait for all jobs, and draw the report."""
    try:
        for name in endings(ids, say=say):
            missing = folder.missing(name)
            if missing and folder.failure(name) is None and not any(map(folder.failure, missing)):
                folder.write_failure(name, f"job {ids[name]} ended early{_last_words(folder.of(name))}")
            say(f"{name}: {f'{len(missing)} loads were not measured' if missing else 'done'}")
    except KeyboardInterrupt:
        resume = f"--resume {shlex.quote(str(folder.path))}"
        say(f"the jobs go on; {resume} waits for them, `scancel {' '.join(ids.values())}` ends them")
        raise
    tell_report([folder], folder.path)


def _last_words(run: Path) -> str:
    """Of a job, as the end of a sentence."""
    code = folders.exit_code(run)
    lines = [line for line in folders.last_lines(run) if line.strip()]
    how = "" if code is None else f", its cluster with exit code {code}"
    return how + (f": {lines[-1].removeprefix('trtdisagg: error: ')}" if lines else "")
