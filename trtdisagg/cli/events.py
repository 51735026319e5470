"""`trtdisagg events`: what happened to a cluster, and what happens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
import msgspec

from trtdisagg.cli.find import cluster_argument, find_cluster
from trtdisagg.cli.terminal import wants_colour
from trtdisagg.cli.values import name_style
from trtdisagg.supervisor.client import ControlClient


class _Entry(msgspec.Struct):
    """What of an entry of the journal people read."""

    time: float
    text: str | None
    event: dict[str, Any] = {}


@click.command()
@cluster_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until the cluster is down.")
@click.option("--json", "as_json", is_flag=True, help="All of it, an object a line.")
def command(*, cluster: str | None, follow: bool, as_json: bool) -> None:
    """Show what happened.

    The last 500 events since the start are kept; what the servers print is in `trtdisagg logs`.

    The cluster is that of FILE, the one called NAME, that of cluster.yaml in this directory, or the only one that runs.
    """
    for line in ControlClient(find_cluster(cluster)).events(follow=follow):
        if as_json:
            click.echo(line)
        else:
            _show(msgspec.json.decode(line, type=_Entry))


def _show(entry: _Entry) -> None:
    if entry.text is None:
        return
    at = f"{datetime.fromtimestamp(entry.time):%H:%M:%S.%f}"[:-3]
    name, colon, words = entry.text.partition(": ")
    click.echo(f"{at} {click.style(name, fg=name_style(name))}{colon}{words}", color=wants_colour())
