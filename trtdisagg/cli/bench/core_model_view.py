"""The table of `benchmark_core_model`, and the same as a row of a CSV file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.table import Table

from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.workloads.core_model import core_model_stats
from trtdisagg.cli.bench.files import told

_CSV = "--op-stats-csv"


def core_model_view(report: ServeReport) -> Table:
    """Drawn as there, so that whoever reads that one reads this one."""
    table = Table(box=box.ASCII2, header_style="")
    table.add_column("Stat", justify="center")
    table.add_column("Value", justify="center")
    for name, value in core_model_stats(report).items():
        table.add_row(name, "-" if value is None else f"{value:.2f}")
    return table


@contextlib.contextmanager
def stats_writing(file: Path | None) -> Iterator[Callable[[ServeReport], None]]:
    """Adds a row to a file, below a header where it is new; whether that can be done is known before the load.

    :raises ConfigError: when it cannot.
    """
    if file is None:
        yield lambda _: None
        return
    with told(file, _CSV):
        file.open("a").close()

    def write(report: ServeReport) -> None:
        stats = core_model_stats(report)
        with told(file, _CSV), file.open("a", newline="", encoding="utf-8") as stream:
            rows = csv.DictWriter(stream, [*stats])
            if stream.tell() == 0:
                rows.writeheader()
            rows.writerow(stats)

    yield write
