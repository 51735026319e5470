"""`trtdisagg status`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from trtdisagg.cli.find import cluster_argument, find_cluster
from trtdisagg.cli.terminal import console
from trtdisagg.cli.views import WIDE, cluster_view, to_svg
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place


@click.command()
@cluster_argument
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON; with --watch, an object a line.")
@click.option("-w", "--watch", is_flag=True, help="Go on with what changes; the same as `top`.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), hidden=True, help="A picture of the table.")
def command(*, cluster: str | None, as_json: bool, watch: bool, svg: Path | None) -> None:
    """Show how a cluster is.

    The cluster is that of FILE, the one called NAME, that of cluster.yaml in this directory, or the only one that runs.
    """
    place = find_cluster(cluster)
    if watch:
        _watch(place, as_json=as_json)
        return
    status = ControlClient(place).status()
    if svg:
        svg.write_text(to_svg(cluster_view(status, WIDE), f"trtdisagg status {status.cluster}", WIDE))
    elif as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(status), indent=2).decode())
    else:
        _print(status)


def _watch(place: Place, *, as_json: bool) -> None:
    from trtdisagg.cli import top

    if not as_json:
        top.watch(place)
        return
    for status in ControlClient(place).watch():
        click.echo(msgspec.json.encode(status))


def _print(status: ClusterStatus) -> None:
    out = console()
    out.print(cluster_view(status, out.width))
