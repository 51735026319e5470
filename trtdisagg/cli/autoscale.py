"""`trtdisagg autoscale --dry-run`: what the autoscaler would do, one line for each look at the cluster."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

import click

from trtdisagg.cli.find import cluster_argument, find_cluster, set_option
from trtdisagg.config.load import load
from trtdisagg.config.supervisor_keys import AutoscaleConfig
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.autoscale import Decision, Memory, by_model, decide
from trtdisagg.supervisor.client import ControlClient


@click.command()
@cluster_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")
@click.option("--once", is_flag=True, help="Look once, not at every interval.")
@set_option
def command(*, cluster: str | None, dry_run: bool, once: bool, overrides: tuple[str, ...]) -> None:
    """Explain what the autoscaler would do, without doing it.

    A line for each interval until Ctrl-C or the end of the cluster, by the `autoscale` section of the cluster file as
    it is now, whether it is enabled there or not. Nothing is carried out, so the same may be said again and again.

    The cluster is that of FILE, the one called NAME, that of cluster.yaml in this directory, or the only one that runs.
    """
    if not dry_run:
        raise click.UsageError(
            "servers are scaled by the agent itself, with `autoscale: {enabled: true}` in the cluster file and "
            "`trtdisagg up` to apply it; `--dry-run` explains what it would do"
        )
    statuses = ControlClient(find_cluster(cluster)).watch()
    first = next(statuses)
    config = _config(first, overrides)
    for decisions in _decisions(itertools.chain([first], statuses), config):
        for model, decision in decisions.items():
            click.echo(f"{datetime.now():%H:%M:%S} {f'{model}: ' if model else ''}{decision.line}")
        if once:
            return


def _config(status: ClusterStatus, overrides: tuple[str, ...]) -> AutoscaleConfig:
    """
    :raises ConfigError: there is no file, or it is wrong.
    """
    if status.file is None:
        raise ConfigError(f"{status.cluster} was started without a cluster file, so nothing says how to scale it")
    return load(status.file, overrides).cluster.autoscale


def _decisions(statuses: Iterable[ClusterStatus], config: AutoscaleConfig) -> Iterator[dict[str, Decision]]:
    """One for each model an interval, remembering those before: how long a role could have spared a server."""
    memories: dict[str, Memory] = {}
    due = -math.inf
    for status in statuses:
        now = time.monotonic()
        if now >= due:
            due = now + config.interval_s
            decided = {m: decide(s, config, memories.get(m, Memory()), now) for m, s in by_model(status).items()}
            memories = {model: memory for model, (_, memory) in decided.items()}
            yield {model: decision for model, (decision, _) in decided.items()}
