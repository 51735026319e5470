"""A measurement of the ways of KV as tables, one for each model and transport."""

from __future__ import annotations

import itertools

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.protocol.bench_kv import SHAPES, KvReport, KvRow

_COLUMNS = ("tokens", "MiB", "pieces", "ms", "GB/s", "copy", "bare", "same pieces", "of copy", "of bare")
_RATIOS = ("of same pieces", "of same layout", "first", "CPU ms", "CPU of copy")


def bench_kv_view(report: KvReport) -> RenderableType:
    """What was reached, and of what."""
    by_title: dict[str, list[KvRow]] = {}
    for row in report.rows:
        by_title.setdefault(f"{row.model}, {row.transport}", []).append(row)
    return Group(*itertools.starmap(_table, by_title.items()), _legend(report))


def _table(title: str, rows: list[KvRow]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layout")
    table.add_column("way")
    for name in (*_COLUMNS, *_RATIOS):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.layout, row.way, *_cells(row))
    return table


def _cells(row: KvRow) -> list[str]:
    sizes = [_tokens(row), f"{row.bytes / 2**20:.0f}", str(row.descriptors), f"{row.latency_ms:.2f}"]
    speeds = [row.gb_s, row.memcpy_gb_s, row.transport_gb_s, row.descriptors_gb_s]
    ratios = [row.ratio_to_memcpy, row.ratio_to_transport, row.ratio_to_descriptors, row.ratio_to_same_layout]
    first = "" if row.first_ms is None else f"x {row.first_ms / row.median_ms:.1f}"
    cpu = [f"{row.cpu_ms:.2f}", _ratio(row.cpu_ms / row.memcpy_cpu_ms)]
    return [*sizes, *(f"{speed:.1f}" for speed in speeds), *map(_ratio, ratios), first, *cpu]


def _tokens(row: KvRow) -> str:
    """With a star where not all layers were moved."""
    return f"{row.num_tokens}{'*' if row.num_layers < SHAPES[row.model].num_layers else ''}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _legend(report: KvReport) -> Text:
    words = (
        f"GB/s, best of all rounds, {report.num_cores} cores. copy: within memory, a thread for each receiving rank; "
        "bare: the transport alone, one piece from each rank; same pieces: the transport alone, the same descriptors; "
        "first: after the servers have met, to the median of the later ones."
    )
    if any(row.num_layers < SHAPES[row.model].num_layers for row in report.rows):
        words += f" *: the first layers only, {report.measured.max_bytes >> 20} MiB of KV."
    words += "".join(f"\nnot {transport}: {reason}" for transport, reason in report.missing.items())
    return Text(words, "dim")
