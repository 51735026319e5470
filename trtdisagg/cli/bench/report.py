"""`trtdisagg bench report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.cli.terminal import console, say
from trtdisagg.errors import ConfigError


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where to. [default: the only DIR]"
)
def command(*, directories: tuple[Path, ...], output: Path | None) -> None:
    """Draw the report of sweeps again, of one or of several in one.

    DIR is the folder of a sweep, which may still be running.
    """
    from trtdisagg.bench.sweep.look import check_there

    check_there()
    if output is None and len(directories) > 1:
        raise ConfigError("the report of several sweeps is none of theirs: say where it goes with --output DIR")
    tell_report([Folder.open(directory) for directory in directories], output or directories[0])


def tell_report(folders: Sequence[Folder], directory: Path) -> None:
    """Written, and its table on stdout."""
    from trtdisagg.bench.sweep.report import PAGE, write_report
    from trtdisagg.cli.bench.sweep_view import sweep_view

    results = write_report(folders, directory)
    out = console()
    out.print(sweep_view(results, out.width))
    for one in results.series:
        for what, reason in one.failures:
            say(f"{one.label}, {what}: {reason}")
    say(f"report: {directory / PAGE}")
