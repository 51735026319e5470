"""`trtdisagg bench serve`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdisagg.bench.serve.load import Load
from trtdisagg.cli.bench.files import writing
from trtdisagg.cli.bench.measuring import measure
from trtdisagg.cli.bench.serve_options import goodput_of, load_of, load_options
from trtdisagg.cli.bench.serve_target import find_model_path
from trtdisagg.cli.bench.workload_options import workload_options
from trtdisagg.cli.terminal import console, say

if TYPE_CHECKING:
    from trtdisagg.bench.serve.report import ServeReport
    from trtdisagg.bench.workloads.build import Built, Wanted


@click.command()
@load_options
@workload_options
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
@click.argument("words", nargs=-1, metavar="")
def command(*, wanted: Wanted, file: Path | None, words: tuple[str, ...], goodput: tuple[str, ...], **said: Any) -> int:
    """Put a load on any OpenAI endpoint, and measure how it answers.

    Without --url the endpoint is the cluster that runs here, otherwise http://localhost:8000. Either --concurrency
    conversations are held at once, each as soon as the one before has ended, or they begin at --request-rate, or both.

    Ctrl-C reports what was measured until then.
    """
    load = load_of(goodput=goodput_of(goodput, words), **said)
    if load.is_detailed and file is None:
        raise click.UsageError("--save-detailed is about what --json FILE tells: give it, too")
    with writing(file) as write:
        report, signum = measure(load, functools.partial(_build, wanted))
        try:
            write(report)
        finally:  # the disk may be full by now
            _show(report)
    if signum:
        return 128 + signum
    return 0 if report.completed else 1


def _build(wanted: Wanted, load: Load) -> Built:
    from trtdisagg.bench.workloads.build import build_workload

    return build_workload(
        wanted,
        endpoint=load.endpoint,
        seed=load.seed,
        model=find_model_path(load.url, load.model) or load.model,
        num_asked=load.num_prompts + load.num_warmups,
    )


def _show(report: ServeReport) -> None:
    from trtdisagg.cli.bench.serve_view import bench_serve_view

    console().print(bench_serve_view(report))
    if not report.completed:
        say("trtdisagg: error: no request was answered")
