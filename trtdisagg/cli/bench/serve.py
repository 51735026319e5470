"""`trtdisagg bench serve`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.load import Load
from trtdisagg.cli.bench.files import writing
from trtdisagg.cli.bench.serve_options import goodput_of, load_of, load_options
from trtdisagg.cli.bench.workload_options import workload_options
from trtdisagg.cli.terminal import console, say

if TYPE_CHECKING:
    from trtdisagg.bench.serve.report import ServeReport
    from trtdisagg.bench.workloads.build import Wanted


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
    with writing(file) as write:
        report, signum = _measure(load, wanted)
        write(report)
    _show(report)
    if signum:
        return 128 + signum
    return 0 if report.completed else 1


def _measure(load: Load, wanted: Wanted) -> tuple[ServeReport, int]:
    """
    :returns: and the signal that ended it; 0: none did.
    """
    import uvloop

    signals: list[int] = []
    try:
        return uvloop.run(_run(load, wanted, signals)), signals[0] if signals else 0
    except MeasureError as e:
        if signals:
            e.exit_code = 128 + signals[0]
        raise


async def _run(load: Load, wanted: Wanted, signals: list[int]) -> ServeReport:
    from trtdisagg.bench.serve.run import find_model, run_load
    from trtdisagg.bench.workloads.build import build_workload
    from trtdisagg.cli.bench.serve_progress import showing

    load = replace(load, model=await find_model(load))
    built = build_workload(wanted, endpoint=load.endpoint, seed=load.seed, model=load.model)
    say(f"{load.url}, {load.model}: {built.words}", *(f"warning: {warning}" for warning in built.warnings))
    with showing() as watch:
        report = await run_load(load, built.workload, watch=watch, stop=_stop(signals))
    return msgspec.structs.replace(report, warnings=[*report.warnings, *built.warnings])


def _stop(signals: list[int]) -> asyncio.Event:
    """Set by the first signal; the second is as if nobody had listened."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def record(signum: int) -> None:
        signals.append(signum)
        stop.set()
        loop.remove_signal_handler(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, record, signum)
    return stop


def _show(report: ServeReport) -> None:
    from trtdisagg.cli.bench.serve_view import bench_serve_view

    console().print(bench_serve_view(report))
    for warning in report.warnings:
        say(f"warning: {warning}")
    if not report.completed:
        say("trtdisagg: error: no request was answered")
