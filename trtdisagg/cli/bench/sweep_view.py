"""The table of a sweep on a terminal: what the page shows, without the pictures."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from trtdisagg.bench.sweep.page import columns, rows
from trtdisagg.bench.sweep.results import Results


def sweep_view(results: Results) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("variant")
    table.add_column("load")
    for column in columns(results):
        table.add_column(f"{column.name}\n{column.unit}", justify="right")
    for row in rows(results):
        style = "bold" if row.is_best else ""
        table.add_row(Text(row.variant), f"{row.load}{' *' if row.is_best else ''}", *row.values, style=style)
    if any(row.is_best for row in rows(results)):
        table.caption = "*: on the Pareto front of throughput and interactivity"
        table.caption_justify = "left"
    return table
