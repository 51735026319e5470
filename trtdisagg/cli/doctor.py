"""`trtdisagg doctor`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from trtdisagg.cli.doctor_view import doctor_view
from trtdisagg.cli.find import DEFAULT_FILE, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.terminal import console, say
from trtdisagg.config.load import load
from trtdisagg.errors import ConfigError, TrtdisaggError
from trtdisagg.protocol.control import Link
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.doctor import (
    Finding,
    Probed,
    examine,
    examine_probe,
    examine_running,
    look,
    probe,
    runs_builtin,
)
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.survey import survey


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@set_option
@click.option("--no-probe", is_flag=True, help="Do not load the engine and measure links, which takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def command(file: str | None, overrides: tuple[str, ...], *, no_probe: bool, as_json: bool) -> int:
    """Find out whether this machine can run a cluster.

    With FILE, or cluster.yaml in this directory, against what that cluster needs; without, the machine as such. Says
    how to mend what is in the way, and ends with 1 when that is an error. Nothing is started but a short trial of the
    transports.
    """
    findings, plan, place = _plan(file, overrides)
    facts = look(plan, place)
    findings += examine(plan, facts)
    trials: list[Probed] = []
    if not no_probe and runs_builtin(plan):
        if not as_json:
            say("Loading the engine and measuring how fast KV moves ...")
        trials += probe(plan)
        findings += examine_probe(plan, trials, facts.env)
    if facts.running_pid is not None:
        findings += examine_running(_links(place), trials)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"findings": findings}), indent=2).decode())
    else:
        console().print(doctor_view(findings))
    return int(any(finding.severity == "error" for finding in findings))


def _plan(file: str | None, overrides: tuple[str, ...]) -> tuple[list[Finding], Plan | None, Place]:
    """A file that cannot be planned is a finding: the rest of the machine can be looked at all the same."""
    if file is None and not DEFAULT_FILE.exists():
        if overrides:
            raise click.UsageError(f"--set is for a cluster file, and there is no {DEFAULT_FILE} here")
        found = f"no cluster file given, and no {DEFAULT_FILE} here: the machine as such"
        return [Finding(topic="plan", found=found)], None, Place.of("doctor", "doctor")
    path = Path(file) if file else DEFAULT_FILE
    place = rundir.find(path) or Place.of(path, "doctor")
    try:
        loaded = load(path, overrides)
        plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    except TrtdisaggError as e:
        return [_no_plan(e, rundir.running_pid(place))], None, place
    found = f"{path}: {len(plan.servers)} servers to start, {len(plan.upstream)} that run already"
    return [Finding(topic="plan", found=found)], plan, rundir.find(path) or Place.of(loaded.path, loaded.name)


def _links(place: Place) -> list[Link]:
    """Those of the cluster that runs, if its agent answers."""
    try:
        return ControlClient(place).status().links
    except TrtdisaggError:
        return []


def _no_plan(error: TrtdisaggError, running_pid: int | None) -> Finding:
    if running_pid is None or isinstance(error, ConfigError):
        return Finding(topic="plan", severity="error", found=error.message)
    why = f"this cluster runs (pid {running_pid}), so a second one does not fit beside it"
    return Finding(topic="plan", severity="warning", found=error.message, needs=why, remedy="Ask again when it is down")
