"""A measurement of proxies as a table, one column each."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.protocol.bench_proxy import ProxyReport

_ROWS = {
    "cpu_us_per_request": "CPU a request, 64 at once [us]",
    "cpu_us_per_request_32k": "CPU a request, 32 KiB body [us]",
    "cpu_us_per_chunk": "CPU a streamed chunk, 64 streams [us]",
    "added_p50_us": "added latency, one at a time, p50 [us]",
    "added_p99_us": "added latency, one at a time, p99 [us]",
    "requests_s": "requests a second, 64 at once",
    "many_streams_added_p99_ms": "1,000 streams: added delay a chunk, p99 [ms]",
    "many_streams_rss_mb": "1,000 streams: memory [MB]",
    "hold_ms": "256 KiB bodies: longest delay of other chunks [ms]",
    "idle_hold_ms": "the same without such bodies [ms]",
}


def bench_proxy_view(report: ProxyReport) -> RenderableType:
    """What each costs, ours first, and how it compares."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("trtdisagg", *map(_short, report.peers)):
        table.add_column(name, justify="right")
    for name, words in _ROWS.items():
        table.add_row(Text(words), _number(getattr(report, name)), *_others(report, name))
    return Group(table, _legend(report))


def _others(report: ProxyReport, name: str) -> list[str]:
    """The peers', and of each the share that ours is."""
    ours = getattr(report, name)
    return [_beside(ours, getattr(peer, name)) for peer in report.peers.values()]


def _beside(ours: float, value: float) -> str:
    return f"{_number(value)} (x {ours / value:.2f})" if value > 0 else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _short(command: str) -> str:
    """The program in a command: what Python runs, where it is Python."""
    if match := re.search(r"python[\d.]*\s+(?:-m\s+)?(\S+)", command):
        return Path(match[1]).stem if "/" in match[1] else match[1].partition(".")[0]
    return Path(command.split(maxsplit=1)[0]).name


def _legend(report: ProxyReport) -> Text:
    direct = report.direct
    chunks = _pair(direct.chunk_delay_p50_us, direct.chunk_delay_p99_us)
    crowd = _pair(direct.many_streams_delay_p50_us, direct.many_streams_delay_p99_us)
    words = (
        f"Best of {report.num_rounds} rounds, {report.num_cores} cores. CPU: user and system time of a proxy's "
        f"processes; x: ours to theirs. The load client and a server alone: {direct.requests_s:,.0f} requests/s, "
        f"{_pair(direct.p50_us, direct.p99_us)} us a request (p50 / p99), {chunks} us a chunk, "
        f"{crowd} with 1,000 streams."
    )
    return Text(words, "dim")


def _pair(p50_us: float, p99_us: float) -> str:
    return f"{p50_us:.0f} / {p99_us:.0f}"
