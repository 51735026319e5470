"""Folders of sweeps with made-up reports in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.serve_reports import serve_report

from trtdisagg.bench.sweep.folder import Folder, write
from trtdisagg.bench.sweep.records import Machine, Ran
from trtdisagg.bench.sweep.sweep import Sweep, Variant

MACHINE = Machine(host="n1", cpu="a CPU", num_cores=2, memory_gib=8.0, kernel="6.1", python="3.11.2")


def sweep_of(*names: str, **keys: Any) -> Sweep:
    keys = {"concurrencies": [1, 8], "ready_timeout_s": 60.0, "cell_timeout_s": 60.0, **keys}
    return Sweep(variants=[Variant(name=name, cluster="c.yaml") for name in names], **keys)


def filled(path: Path, sweep: Sweep, figures: Mapping[tuple[str, str], dict[str, Any]]) -> Folder:
    """
    :param figures: by variant and the name of a cell's folder.
    """
    folder = Folder.create(path, sweep, {variant.name: "model: m\n" for variant in sweep.variants})
    for variant in sweep.variants:
        ran = Ran(version="1", machine=MACHINE, started_at="2026-11-22T14:15:00+00:00", url="http://n1:8000")
        folder.write_ran(variant.name, ran)
        for cell in sweep.cells(variant.name):
            if (variant.name, cell.folder) in figures:
                folder.cell(cell).mkdir()
                write(folder.report_file(cell), serve_report(**figures[variant.name, cell.folder]))
    return folder
