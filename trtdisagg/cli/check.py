"""`trtdisagg check`."""

from __future__ import annotations

import os

import click

from trtdisagg.cli.find import cluster_file, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.plan_view import plan_report, plan_view
from trtdisagg.cli.terminal import console, say
from trtdisagg.cli.transfer_view import transfer_view
from trtdisagg.config.load import load
from trtdisagg.supervisor.survey import survey


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@set_option
@click.option("--json", "as_json", is_flag=True, help="All of the plan, as JSON.")
def command(file: str | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Check a cluster file and print its plan.

    Nothing is started. A model that only the hub has is downloaded, because the plan needs its dimensions.
    """
    loaded = load(cluster_file((file,)), overrides)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    if as_json:
        click.echo(plan_report(plan, loaded))
        return
    console().print(plan_view(plan, loaded.overrides))
    console().print(transfer_view(loaded, plan, os.environ), end="")
    say(*loaded.no_effect, *plan.notices)
