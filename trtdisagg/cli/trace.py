"""`trtdisagg trace`: where the time of a request went."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import click
import msgspec
from rich.text import Text

from trtdisagg.cli.find import cluster_option, find_cluster
from trtdisagg.cli.terminal import console, say
from trtdisagg.cli.trace_view import trace_view, traces_view
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.trace import Trace
from trtdisagg.supervisor.client import ControlClient

_NUM_LISTED = 20
_MAX_LISTED = 100


@click.command()
@click.argument("request_id", required=False)
@cluster_option
@click.option("--slowest", is_flag=True, help="List those that took longest, not the last ones.")
@click.option("-n", "--number", type=click.IntRange(1, _MAX_LISTED), default=_NUM_LISTED, help="List so many.")
@click.option("--json", "as_json", is_flag=True, help="All of it, an object a line.")
def command(*, request_id: str | None, cluster: str | None, slowest: bool, number: int, as_json: bool) -> None:
    """Show where the time of a request went.

    REQUEST_ID is what the answer says as X-Request-Id. Without it, the last requests are listed. The proxy keeps the
    last 4096; a restart forgets them.
    """
    if request_id is not None and slowest:
        raise click.UsageError("--slowest lists requests; leave the id out")
    query = f"{'slowest' if slowest else 'last'}={number}" if request_id is None else f"id={quote(request_id, safe='')}"
    told = ControlClient(find_cluster(cluster)).traces(query)
    say(*(f"not asked: {name}" for name in told.missing))
    if request_id is not None and not told.traces:
        raise TrtdisaggError(
            f"no request {request_id!r} among the last ones of the proxy; `trtdisagg trace` lists those that it knows"
        )
    traces = told.traces if request_id is not None else _first(told.traces, number, slowest=slowest)
    if as_json:
        for trace in traces:
            click.echo(msgspec.json.encode(trace).decode())
    else:
        _show(traces, alone=request_id is not None)


def _first(traces: Sequence[Trace], number: int, *, slowest: bool) -> list[Trace]:
    """Of all processes of the proxy together."""
    if slowest:
        traces = sorted(traces, key=lambda trace: -(trace.ended_ms or 0.0))
    return list(traces[:number])


def _show(traces: Sequence[Trace], *, alone: bool) -> None:
    screen = console()
    if not alone:
        screen.print(traces_view(traces) if traces else Text("no requests yet"))
        return
    for trace in traces:
        screen.print(trace_view(trace, screen.width))
