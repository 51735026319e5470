"""`trtdisagg check`."""

from __future__ import annotations

import os

import click

from trtdisagg.cli.find import cluster_file, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.nodes_view import nodes_report, nodes_view
from trtdisagg.cli.plan_view import plan_report, plan_view
from trtdisagg.cli.terminal import console, say
from trtdisagg.cli.transfer_view import transfer_view
from trtdisagg.config.load import Loaded, load
from trtdisagg.supervisor.nodes.assign import assign, is_here, nodes_alike
from trtdisagg.supervisor.slots import slots
from trtdisagg.supervisor.survey import survey


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@set_option
@click.option("--json", "as_json", is_flag=True, help="All of the plan, as JSON.")
@click.option("--nodes", "num_nodes", type=click.IntRange(min=1), help="Say what would be where on so many nodes.")
@click.option("--gpus-per-node", type=click.IntRange(min=0), help="Of each of them. [default: 0, all on the CPU]")
def command(
    file: str | None, overrides: tuple[str, ...], *, as_json: bool, num_nodes: int | None, gpus_per_node: int | None
) -> None:
    """Check a cluster file and print its plan.

    Nothing is started. A model that only the hub has is downloaded, because the plan needs its dimensions. With
    --nodes no machine and no model is looked at: it is said which server is on which node.
    """
    if gpus_per_node is not None and num_nodes is None:
        raise click.UsageError("--gpus-per-node is for --nodes")
    loaded = load(cluster_file((file,)), overrides)
    if num_nodes is not None:
        _show_nodes(loaded, num_nodes, gpus_per_node or 0, as_json=as_json)
        return
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    if as_json:
        click.echo(plan_report(plan, loaded))
        return
    console().print(plan_view(plan, loaded.overrides))
    console().print(transfer_view(loaded, plan, os.environ), end="")
    say(*loaded.no_effect, *plan.notices)


def _show_nodes(loaded: Loaded, num_nodes: int, gpus_per_node: int, *, as_json: bool) -> None:
    nodes, everything = nodes_alike(num_nodes, gpus_per_node), list(slots(loaded.cluster))
    homes = assign([slot for slot in everything if slot.model is not None and is_here(slot, nodes)], nodes)
    if as_json:
        click.echo(nodes_report(homes))
    else:
        console().print(nodes_view(everything, homes))
        say(*loaded.no_effect)
