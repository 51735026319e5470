"""The screen of a cluster: a pure function of its status and the room there is.

Where it is not high enough, old events go first, then rows of servers that are well: what is wrong stays in sight.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from trtdisagg.cli import values
from trtdisagg.cli.server_table import server_tables
from trtdisagg.protocol.control import ClusterStatus, Link, Member, ServerStatus

WIDE = 120
"""Of a picture."""
_NUM_EVENTS = 5
_NUM_HEAD_LINES = 2
_MIN_ROWS = 3
_MAX_BROKEN_LINKS = 3
_ROLE_ORDER = ["proxy", "context", "both", "generation"]


def cluster_view(status: ClusterStatus, width: int, height: int | None = None) -> RenderableType:
    """The whole screen: the cluster, its requests, a row for each server, what there is to say, the last events.

    :param height: lines there are; None: as many as it takes.
    """
    above = [_header(status), *_requests(status.servers)]
    links = [*_links(status.links), *_broken_links(status.links)]
    below = [*_reasons(status.servers), *links, *_others(status.others), *_autoscale(status), *_hints(status.hints)]
    servers = sorted(status.servers, key=lambda s: _ROLE_ORDER.index(s.role))
    if height is None:
        return Group(*above, *_servers(servers, width, len(servers)), *below, *_events(status.events, _NUM_EVENTS))
    room = height - _num_lines([*above, *below], width)
    table = _fitting(servers, width, room)
    num_events = min(_NUM_EVENTS, room - len(table) - 1)
    return Group(*above, *table, *below, *_events(status.events, max(num_events, 0)))


def to_svg(view: RenderableType, title: str, width: int = WIDE) -> str:
    """A picture of a view."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(view)
    # Without the fonts that rich would have fetched from elsewhere: the picture stands alone.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)


def _num_lines(parts: Iterable[RenderableType], width: int) -> int:
    console = Console(width=width, file=io.StringIO())
    return sum(len(console.render_lines(part)) for part in parts)


# --- the cluster ----------------------------------------------------------------------------------------------------


def _header(status: ClusterStatus) -> Text:
    state = (status.state, values.STATE_STYLES[status.state])
    line = Text.assemble((status.cluster, "bold"), " ", state, f", up {values.duration(status.up_s)}, {status.url}")
    if status.reason:
        line.append(f"\n{status.reason}", values.STATE_STYLES[status.state])
    return line


def _requests(servers: Iterable[ServerStatus]) -> list[Text]:
    """What clients see, by the proxy's own counters."""
    proxies = [server for server in servers if server.role == "proxy"]
    return [_request_line(proxies)] if proxies else []


def _request_line(proxies: Sequence[ServerStatus]) -> Text:
    running, waiting = (sum(getattr(p.stats, name) for p in proxies) for name in ("num_running", "num_waiting"))
    failures_s = sum(p.failures_s for p in proxies)
    line = Text("requests ", "bold")
    line.append(f"{values.rate(sum(p.requests_s for p in proxies))}/s", "default").append(f", {running} running")
    line.append(f", {waiting} waiting", "yellow" if waiting else "default")
    line.append(f", {values.rate(failures_s)}/s failing", "red" if failures_s >= 0.05 else "default")
    line.stylize("not bold", len("requests "))
    return line


# --- servers --------------------------------------------------------------------------------------------------------


def _servers(servers: Sequence[ServerStatus], width: int, max_rows: int) -> list[Text]:
    """The table, or of a table that is too long the rows that matter, and how many were left out."""
    if not servers:
        return []
    kept = {s.name for s in sorted(servers, key=_is_well)[:max_rows]}
    lines = [line for table in server_tables([s for s in servers if s.name in kept], width) for line in table]
    left_out = [s for s in servers if s.name not in kept]
    if left_out:
        how = ", all ready" if all(_is_well(s) for s in left_out) else ""
        lines.append(Text(f"and {len(left_out)} more{how}: `trtdisagg status | less` has them all", "dim"))
    return lines


def _fitting(servers: Sequence[ServerStatus], width: int, room: int) -> list[Text]:
    lines = _servers(servers, width, len(servers))
    if len(lines) <= room:
        return lines
    num_tables = len(lines) // (len(servers) + _NUM_HEAD_LINES)
    max_rows = (room - _NUM_HEAD_LINES * num_tables - 1) // num_tables
    return _servers(servers, width, max(max_rows, _MIN_ROWS))


def _is_well(server: ServerStatus) -> bool:
    return server.state == "ready"


def _reasons(servers: Iterable[ServerStatus]) -> list[Text]:
    """A line for each server of which there is more to say than its state; of one that was stopped there is not."""
    return [
        Text.assemble(_name(s), " ", (s.state, values.STATE_STYLES[s.state]), f": {words}")
        for s in servers
        if s.state != "stopped" and (words := _why(s))
    ]


def _why(server: ServerStatus) -> str:
    words = [server.reason] if server.reason else []
    if server.in_use and server.state in ("draining", "stopping"):
        words.append(f"{server.in_use} request{'s' if server.in_use > 1 else ''} to finish")
    if server.deadline_s is not None:
        words.append(f"cut short in {max(server.deadline_s, 0):.0f} s")
    return ", ".join(words)


def _name(server: ServerStatus | Member) -> tuple[str, str]:
    return server.name, values.ROLE_STYLES[server.role]


# --- what there is to say -------------------------------------------------------------------------------------------


def _links(links: Sequence[Link]) -> list[Text]:
    """`KV local (pull), 9.8 to 11.2 GB/s, 4 links`: a line for each kind."""
    kinds: dict[str, list[float]] = {}
    for link in links:
        if link.is_open and link.error is None:
            kinds.setdefault(f"{link.transport} ({link.direction})", []).append(link.gb_s)
    words = {kind: f"{kind}, {_span(rates)} GB/s, {_count(rates)}" for kind, rates in kinds.items()}
    return [Text.assemble(("KV ", "bold"), line) for line in words.values()]


def _span(rates: Sequence[float]) -> str:
    low, high = f"{min(rates):.1f}", f"{max(rates):.1f}"
    return low if low == high else f"{low} to {high}"


def _count(rates: Sequence[float]) -> str:
    return f"{len(rates)} link{'s' * (len(rates) > 1)}"


def _broken_links(links: Sequence[Link]) -> list[Text]:
    broken = [link for link in links if link.error is not None]
    lines = [f"! no KV from {link.context} to {link.generation}: {link.error}" for link in broken[:_MAX_BROKEN_LINKS]]
    if len(broken) > _MAX_BROKEN_LINKS:
        lines.append(f"! and {len(broken) - _MAX_BROKEN_LINKS} more without KV; `trtdisagg status --json` has them all")
    return [Text(line, "yellow") for line in lines]


def _others(others: Sequence[Member]) -> list[Text]:
    if not others:
        return []
    line = Text("looked after elsewhere: ")
    for i, member in enumerate(others):
        line.append(", " if i else "").append(*_name(member)).append(f" ({member.url})")
    return [line]


def _autoscale(status: ClusterStatus) -> list[Text]:
    return [Text.assemble(("autoscale ", "bold"), status.autoscale)] if status.autoscale else []


def _hints(hints: Iterable[str]) -> list[Text]:
    return [Text(f"! {hint}", "yellow") for hint in hints]


def _events(events: list[str], count: int) -> list[Text]:
    lines = events[-count:] if count > 0 else []
    return [Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in ["", *lines] if lines]
