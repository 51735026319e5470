"""`trtdisagg top`: the live screen of a running cluster, on a screen of its own so that the scroll-back stays clean."""

from __future__ import annotations

import os
import sys

import click
from rich.live import Live

from trtdisagg.cli.find import cluster_argument, find_cluster
from trtdisagg.cli.keyboard import Keyboard
from trtdisagg.cli.terminal import console, say
from trtdisagg.cli.views import cluster_view
from trtdisagg.errors import NotRunningError
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place

_REDRAW_S = 0.5
_QUIT = {"q", "Q", "\x1b"}


@click.command()
@cluster_argument
def command(cluster: str | None) -> None:
    """Watch a cluster on a live screen.

    q or Ctrl-C leaves, and the cluster goes on. TTFT and TPOT are the 95th percentiles of the last minute's times to
    the first token and per token, GB/s is the speed of KV transfers while they run, work is the last two minutes.

    The cluster is that of FILE, the one called NAME, that of cluster.yaml in this directory, or the only one that runs.
    """
    watch(find_cluster(cluster))


def watch(place: Place) -> None:
    """Show the live screen until somebody leaves it, or the agent ends.

    :raises NotRunningError: there is no agent to begin with.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("`top` needs a terminal; `trtdisagg status` shows the same once, `--json` for programs")
    client = ControlClient(place)
    status = client.status()
    own_screen = Live(console=console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with Keyboard() as keyboard, own_screen as live:
        while not keyboard.pressed(_QUIT):
            _draw(live, status)
            keyboard.wait(_REDRAW_S)
            try:
                status = client.status()
            except NotRunningError:
                break
        else:
            return
    say(f"{status.cluster} is not running any more")


def _draw(live: Live, status: ClusterStatus) -> None:
    width, height = os.get_terminal_size(sys.stdout.fileno())
    live.console.size = (width, height)
    live.update(cluster_view(status, width, height), refresh=True)
