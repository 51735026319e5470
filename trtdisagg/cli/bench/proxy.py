"""`trtdisagg bench proxy`."""

from __future__ import annotations

from pathlib import Path

import click

from trtdisagg.bench.proxy.measure import measure_proxies
from trtdisagg.cli.bench.files import writing
from trtdisagg.cli.bench.proxy_view import bench_proxy_view
from trtdisagg.cli.terminal import console, say


@click.command()
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="COMMAND",
    help="Measure this proxy, too; in it {context} and {generation} stand for host:port, {port} for its own port.",
)
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--quick", "is_quick", is_flag=True, help="A tenth of the load: whether it works, not how fast it is.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
def command(*, peers: tuple[str, ...], num_rounds: int, is_quick: bool, file: Path | None) -> None:
    """Measure what the proxy costs, and other proxies beside it.

    Each stands between two scripted servers and a load client that are faster than any of them. Every request passes a
    context and a generation server. The best of all rounds counts.
    """
    with writing(file) as write:
        report = measure_proxies(peers, num_rounds=num_rounds, is_quick=is_quick, stage=say)
        write(report)
    console().print(bench_proxy_view(report))
