"""`trtdisagg bench sweep`."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import click

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.bench.sweep.run import run_sweep
from trtdisagg.bench.sweep.sweep import Sweep
from trtdisagg.cli.bench.report import tell_report
from trtdisagg.cli.bench.sweep_options import check_only, loaded_variants, read_sweep, sweep_options
from trtdisagg.cli.terminal import say
from trtdisagg.config.written import written
from trtdisagg.errors import ConfigError

_INTERRUPTED = 128


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@sweep_options
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="A new folder. [default: sweep-DATE-TIME]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with the sweep in this folder.")
@click.option("--only", multiple=True, metavar="NAME", help="Of all variants, this one; may be repeated.")
@click.option("--url", help="Where the variant of --only has been brought up from its cluster file, by somebody else.")
@click.option("--dry-run", is_flag=True, help="Tell what would be run.")
def command(
    *,
    file: Path | None,
    directory: Path | None,
    resume: Path | None,
    only: tuple[str, ...],
    url: str | None,
    dry_run: bool,
    **said: Any,
) -> int:
    """Measure variants of a cluster under one load after the other, and draw what came of it.

    FILE is a sweep file (docs/measuring.md); options are in place of its keys, or stand for the whole of it. Each
    variant is brought up, measured by `bench serve` and taken down. What fails is told, and the others go on.
    """
    from trtdisagg.bench.sweep.look import check_there

    if url is None:
        check_there()
    elif resume is None or len(only) != 1:
        raise ConfigError("--url is for one variant of a sweep that was begun: name them with --resume and --only")
    if resume and (file or directory or any(said.values())):
        raise ConfigError(f"--resume {resume}: the sweep is the one in it; beside it there is only --only")
    folder = Folder.open(resume) if resume else None
    sweep = folder.sweep if folder else read_sweep(file, said)
    check_only(only, sweep)
    loaded = {} if folder else loaded_variants(sweep)
    if dry_run:
        say(*_told(sweep, folder, only))
        return 0
    if folder is None:
        files = {name: written(each, f"{name} of {each.path}") for name, each in loaded.items()}
        folder = Folder.create(directory or new_folder(), sweep, files)
    say(f"in {folder.path}")
    code = anyio.run(functools.partial(run_sweep, folder, only, say, url=url))
    if code >= _INTERRUPTED:
        say(f"--resume {folder.path} goes on; `trtdisagg bench report {folder.path}` draws what is there")
    elif url is None:  # else whoever has brought it up collects the variants
        tell_report([folder], folder.path)
    return code


def new_folder() -> Path:
    """Where a sweep goes if nobody says it."""
    return Path(time.strftime("sweep-%Y%m%d-%H%M%S"))


def _told(sweep: Sweep, folder: Folder | None, only: Sequence[str]) -> Iterator[str]:
    for variant in sweep.variants:
        if not only or variant.name in only:
            cells = folder.missing(variant.name) if folder else sweep.cells(variant.name)
            where = variant.url or " ".join([str(variant.cluster), *(f"--set {each}" for each in variant.overrides)])
            yield f"{variant.name}: {where}"
            yield from (f"  {cell.folder}: bench serve {' '.join(sweep.words(cell))}" for cell in cells)
