"""Runs a load for a command: says what is asked, shows how far it is, and ends early when it is told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.load import Load
from trtdisagg.cli.terminal import say

if TYPE_CHECKING:
    from trtdisagg.bench.serve.report import ServeReport
    from trtdisagg.bench.workloads.build import Built

Build = Callable[[Load], "Built"]
"""Makes the workload, now that the load says which model is asked."""


def measure(load: Load, build: Build) -> tuple[ServeReport, int]:
    """Whatever there is to warn of is said, too.

    :returns: and the signal that ended it; 0: none did.
    """
    import uvloop

    signals: list[int] = []
    try:
        return uvloop.run(_run(load, build, signals)), signals[0] if signals else 0
    except MeasureError as e:
        if signals:
            e.exit_code = 128 + signals[0]
        raise


async def _run(load: Load, build: Build, signals: list[int]) -> ServeReport:
    from trtdisagg.bench.serve.run import find_model, run_load
    from trtdisagg.cli.bench.serve_progress import showing

    load = replace(load, model=await find_model(load))
    built = build(load)
    say(f"{load.url}, {load.model}: {built.words}")
    _warn(built.warnings)
    with showing() as watch:
        report = await run_load(load, built.workload, watch=watch, stop=_stop(signals))
    _warn(report.warnings)
    return replace(report, warnings=[*report.warnings, *built.warnings])


def _warn(warnings: list[str]) -> None:
    say(*(f"warning: {warning}" for warning in warnings))


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
