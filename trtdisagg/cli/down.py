"""`trtdisagg down`."""

from __future__ import annotations

import contextlib

import click

from trtdisagg.cli.find import cluster_argument, find_cluster
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import load
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.control import DownRequest
from trtdisagg.supervisor.client import ControlClient, wait_until_gone

_MARGIN_S = 20.0
"""For everything but the drain and the pause before SIGKILL."""


@click.command()
@cluster_argument
@click.option("-t", "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Deadline of running requests.")
@click.option("--force", is_flag=True, help="Kill at once; running requests are lost.")
def command(cluster: str | None, timeout: float | None, force: bool) -> None:
    """Take a cluster down in order.

    No new request is taken, those that run are finished until the deadline (drain_timeout_s of the cluster file), then
    the servers end.
    """
    client = ControlClient(find_cluster(cluster))
    status = client.status()
    pid = client.down(DownRequest(timeout_s=timeout, force=force))
    deadline_s = _deadline_s(status.file, timeout)
    if not wait_until_gone(pid, deadline_s):
        raise StartupError(f"{status.cluster} is not down after {deadline_s:g} s (pid {pid}); try `down --force`")
    say(f"{status.cluster} is down")


def _deadline_s(file: str | None, timeout_s: float | None) -> float:
    """How long the whole may take."""
    supervision = SupervisionConfig()
    if file:
        with contextlib.suppress(ConfigError):  # edited, or gone, since the start
            supervision = load(file).cluster.supervision
    drain_s = supervision.drain_timeout_s if timeout_s is None else timeout_s
    return drain_s + supervision.kill_timeout_s + _MARGIN_S
