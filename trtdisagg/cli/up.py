"""`trtdisagg up`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from msgspec.structs import replace

from trtdisagg.cli.background import Background, wait_for, wait_for_answer
from trtdisagg.cli.find import cluster_file, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import AlreadyRunningError
from trtdisagg.protocol.control import ApplyRequest
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.doctor import before_start
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.run_files import RunFiles
from trtdisagg.supervisor.survey import survey
from trtdisagg.supervisor.wish import Wish


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@click.option("-f", "--file", "option", metavar="FILE", help="The same as FILE.")
@click.option("-d", "--detach", is_flag=True, help="Run in the background.")
@click.option("--wait", is_flag=True, help="With -d: return when the cluster can serve, or why it cannot.")
@click.option("--wait-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait, but not longer.")
@set_option
@click.option("--dry-run", is_flag=True, help="Of a cluster that runs: only tell what would change.")
@click.option("--no-tui", is_flag=True, help="Lines instead of the live table.")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write `url` there when the cluster can serve, and `exit-code` at its end.",
)
@click.option("--srun", "in_step", is_flag=True, help="As a task of a Slurm step, on all its nodes.")
@click.option(
    "--rendezvous",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="With --srun: where the nodes find each other; all have to see it. [default: in the state directory]",
)
@click.option("--network", metavar="NAME|NET", help="With --srun: what nodes reach each other by: ib0, 10.1.0.0/16.")
@click.option("--rejoin", metavar="STEP", help="With --srun: be anew an agent that this step of the job has lost.")
@click.option("--detached", is_flag=True, hidden=True, help="This is the background.")
def command(
    *,
    file: str | None,
    option: str | None,
    detach: bool,
    wait: bool,
    wait_timeout: float | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    no_tui: bool,
    run_dir: Path | None,
    in_step: bool,
    rendezvous: Path | None,
    network: str | None,
    rejoin: str | None,
    detached: bool,
) -> int:
    """Bring a cluster up and keep it up.

    Ctrl-C takes it down in order, a second one at once. Without FILE, cluster.yaml in this directory is meant. A
    cluster that runs already is made what the file says now: what needs no restart at once, the rest server by server.
    """
    wait = wait or wait_timeout is not None
    _check(
        (wait and not detach, "--wait is for -d; without it, `up` stays in the foreground"),
        (run_dir and detach, "--run-dir is for the foreground; with -d, `status` tells"),
        ((rendezvous or network or rejoin) and not in_step, "--rendezvous, --network and --rejoin are for --srun"),
        (
            in_step and (detach or dry_run),
            "--srun stays in the foreground; `check --nodes N` says what would be where",
        ),
    )
    loaded = load(cluster_file((file, option)), overrides)
    if in_step:
        from trtdisagg.cli.srun import up_in_step

        return up_in_step(Wish(loaded=loaded, overrides=list(overrides)), run_dir, rendezvous, network, rejoin)
    if running := _running_place(loaded):
        return _converge(running, overrides, dry_run=dry_run, until_ready=wait, timeout_s=wait_timeout)
    place = Place.of(loaded.path, loaded.name)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    if dry_run:
        say(*loaded.no_effect, *plan.notices, *(f"+ {child.name}" for child in plan.children))
        return 0
    warnings = before_start(plan, place)
    if not detached:  # else the foreground has said it
        say(*loaded.no_effect, *plan.notices, *warnings)
    if detach:
        background = Background(loaded.path, place, overrides)
        click.echo(wait_for(place, background, until_ready=wait, timeout_s=wait_timeout).url)
        return 0
    plan = replace(plan, fingerprint=loaded.fingerprint)
    wish = Wish(loaded=loaded, overrides=list(overrides))
    try:
        with RunFiles(run_dir, loaded.cluster.hostname).of_a_run() as files:
            show_table = sys.stdout.isatty() and not no_tui
            code = _stay(plan, place, wish, files.serves, show_table=show_table, of_children=not detached)
            files.ended(code)
            return code
    except AlreadyRunningError:  # somebody was faster
        return _converge(place, overrides, dry_run=dry_run, until_ready=wait, timeout_s=wait_timeout)


def _check(*faults: tuple[object, str]) -> None:
    """
    :param faults: whether it is one, and which.
    """
    for is_so, fault in faults:
        if is_so:
            raise click.UsageError(fault)


def _running_place(loaded: Loaded) -> Place | None:
    """Where a cluster of this file runs, under whatever name it was started."""
    place = rundir.find(loaded.path)
    return place if place and rundir.running_pid(place) is not None else None


def _stay(
    plan: Plan, place: Place, wish: Wish, on_ready: Callable[[str], None], *, show_table: bool, of_children: bool
) -> int:
    from trtdisagg.cli.foreground import run_with_lines, run_with_table

    if show_table:
        return run_with_table(plan, place, wish, on_ready=on_ready)
    return run_with_lines(plan, place, wish, on_ready=on_ready, of_children=of_children)


def _converge(
    place: Place, overrides: tuple[str, ...], *, dry_run: bool, until_ready: bool, timeout_s: float | None
) -> int:
    """The cluster of this file runs already: make it what the file says."""
    client = ControlClient(place)
    status = wait_for_answer(place)
    say(f"{status.cluster} runs already: {status.url} (pid {status.agent_pid}, {status.state})")
    began_at = time.monotonic()
    say(*client.ask("apply", ApplyRequest(overrides=list(overrides), dry_run=dry_run), timeout_s=timeout_s).lines)
    left_s = None if timeout_s is None else max(0.0, began_at + timeout_s - time.monotonic())
    click.echo(wait_for(place, None, until_ready=until_ready and not dry_run, timeout_s=left_s).url)
    return 0
