"""The table of a sweep on a terminal: what the page shows, without the pictures."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection

from rich.table import Table
from rich.text import Text

from trtdisagg.bench.sweep.page import columns, rows
from trtdisagg.bench.sweep.results import Results
from trtdisagg.cli.fitted import fitted

_SPARE = ("E2EL p99\nms", "ITL p99\nms", "TPOT p50\nms", "TTFT p50\nms", "requests\n/s")
"""The page has them."""


def sweep_view(results: Results, width: int) -> Table:
    """:param width: of the terminal."""
    spare = _SPARE if results.unit == "cluster" else (*_SPARE, "output\ntok/s")
    return fitted(functools.partial(_table, results), spare, width)


def _table(results: Results, spared: Collection[str]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("variant")
    table.add_column("load")
    names = [f"{column.name}\n{column.unit}" for column in columns(results)]
    shown = [name not in spared for name in names]
    for name in itertools.compress(names, shown):
        table.add_column(name, justify="right")
    for row in rows(results):
        style = "bold" if row.is_best else ""
        values = itertools.compress(row.values, shown)
        table.add_row(Text(row.variant), f"{row.load}{' *' if row.is_best else ''}", *values, style=style)
    if any(row.is_best for row in rows(results)):
        table.caption = "*: on the Pareto front of throughput and interactivity"
        table.caption_justify = "left"
    return table
