"""`trtdisagg up`."""

from __future__ import annotations

import sys

import click
from msgspec.structs import replace

from trtdisagg.cli.background import Background, wait_for
from trtdisagg.cli.find import cluster_file
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import AlreadyRunningError, StartupError
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.survey import survey


@click.command()
@click.argument("file", required=False)
@click.option("-f", "--file", "option", metavar="FILE", help="The same as FILE.")
@click.option("-d", "--detach", is_flag=True, help="Run in the background.")
@click.option("--wait", is_flag=True, help="With -d: return when the cluster can serve, or why it cannot.")
@click.option("--wait-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait, but not longer.")
@click.option("--no-tui", is_flag=True, help="Lines instead of the live table.")
@click.option("--detached", is_flag=True, hidden=True, help="This is the background.")
def command(
    *,
    file: str | None,
    option: str | None,
    detach: bool,
    wait: bool,
    wait_timeout: float | None,
    no_tui: bool,
    detached: bool,
) -> int:
    """Bring a cluster up and keep it up.

    Ctrl-C takes it down in order, a second one at once. Without FILE, cluster.yaml in this directory is meant.
    """
    wait = wait or wait_timeout is not None
    if wait and not detach:
        raise click.UsageError("--wait is for -d; without it, `up` stays in the foreground")
    loaded = load(cluster_file((file, option)))
    if running := _running_place(loaded):
        return _join(loaded, running, until_ready=wait, timeout_s=wait_timeout)
    place = Place.of(loaded.path, loaded.name)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    if not detached:  # the foreground has said it
        say(*loaded.no_effect, *plan.notices)
    if detach:
        click.echo(wait_for(place, Background(loaded.path, place), until_ready=wait, timeout_s=wait_timeout).url)
        return 0
    plan = replace(plan, fingerprint=loaded.fingerprint)
    try:
        return _stay(plan, place, show_table=sys.stdout.isatty() and not no_tui, of_children=not detached)
    except AlreadyRunningError:  # somebody was faster
        return _join(loaded, place, until_ready=wait, timeout_s=wait_timeout)


def _running_place(loaded: Loaded) -> Place | None:
    """Where a cluster of this file runs, under whatever name it was started."""
    place = rundir.find(loaded.path)
    return place if place and rundir.running_pid(place) is not None else None


def _stay(plan: Plan, place: Place, *, show_table: bool, of_children: bool) -> int:
    from trtdisagg.cli.foreground import run_with_lines, run_with_table

    return run_with_table(plan, place) if show_table else run_with_lines(plan, place, of_children=of_children)


def _join(loaded: Loaded, place: Place, *, until_ready: bool, timeout_s: float | None) -> int:
    """The cluster of this file runs already: that is all right if it is what the file says."""
    status = ControlClient(place).status()
    runs = f"{status.cluster} runs already: {status.url} (pid {status.agent_pid}, {status.state})"
    if status.fingerprint != loaded.fingerprint:
        raise StartupError(
            f"{runs}, but {loaded.path} has changed since. To run what it says now: "
            f"trtdisagg down {loaded.path} && trtdisagg up {loaded.path}"
        )
    say(runs)
    click.echo(wait_for(place, None, until_ready=until_ready, timeout_s=timeout_s).url)
    return 0
