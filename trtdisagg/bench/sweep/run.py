"""Runs a sweep: each variant brought up, each of its cells that has no report yet run, each variant taken down.

What fails is written down, and the sweep goes on with what comes next.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence

import anyio
from msgspec.structs import replace

from trtdisagg import __version__
from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.sweep import records
from trtdisagg.bench.sweep.cell import run_cell
from trtdisagg.bench.sweep.cluster import ask, running
from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.bench.sweep.records import Ran
from trtdisagg.bench.sweep.sweep import Cell, Variant
from trtdisagg.errors import StartupError
from trtdisagg.protocol.control import ClusterStatus

Check = Callable[[], None]


async def run_sweep(folder: Folder, only: Sequence[str], say: Callable[[str], None], *, url: str | None = None) -> int:
    """To be called in the main thread.

    :param only: variants; none: all.
    :param url: where the only variant has been brought up already, from its cluster file, by somebody else.
    :param say: told what is done, line by line.
    :returns: exit code: 0, 1 when something failed, 128+N after signal N, when everything is down. A second signal ends
        this process at once, and with it whatever it has started.
    :raises StartupError: another sweep works on one of the variants, or the folder cannot be written.
    """
    wanted = [variant for variant in folder.sweep.variants if not only or variant.name in only]
    exit_code = 0
    broken: OSError | None = None
    with contextlib.ExitStack() as stack:
        for variant in wanted:
            stack.enter_context(folder.held(variant.name))
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                nonlocal exit_code
                exit_code = 128 + await _first_signal(say)
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            try:
                num_failed = sum([await _run_variant(folder, variant, say, url) for variant in wanted])
                exit_code = 1 if num_failed else 0
            except OSError as e:
                broken = e
            tasks.cancel_scope.cancel()
    if broken is not None:
        where = broken.filename or folder.path
        raise StartupError(f"{where}: {broken.strerror}; --resume {folder.path} goes on once that is mended")
    return exit_code


async def _first_signal(say: Callable[[str], None]) -> int:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        number = await anext(aiter(signals))
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    say(f"{number.name}: taking down what runs; once more ends it at once")
    return number


async def _run_variant(folder: Folder, variant: Variant, say: Callable[[str], None], url: str | None) -> int:
    """:returns: how much of it failed."""
    if not (missing := folder.missing(variant.name)):
        say(f"{variant.name}: done before")
        return 0
    folder.write_failure(variant.name, None)
    say(f"{variant.name}: starting")
    num_failed = 0
    try:
        async with _endpoint(folder, variant, url) as (on, check):
            say(f"{variant.name}: {on.url}, {_runs_on(on)}")
            for cell in missing:
                num_failed += await _try_cell(folder, cell, on, say)
                check()
    except MeasureError as e:
        folder.write_failure(variant.name, e.message)
        say(f"{variant.name}: {e.message}")
        num_failed += 1
    return num_failed


async def _try_cell(folder: Folder, cell: Cell, on: Ran, say: Callable[[str], None]) -> bool:
    """:returns: whether it failed."""
    folder.write_failure(cell, None)
    try:
        report = await run_cell(folder, cell, on)
    except MeasureError as e:
        folder.write_failure(cell, e.message)
        say(f"{cell.variant} {cell.folder}: {e.message}")
        return True
    say(f"{cell.variant} {cell.folder}: {_figures(report)}")
    return False


@contextlib.asynccontextmanager
async def _endpoint(folder: Folder, variant: Variant, url: str | None) -> AsyncIterator[tuple[Ran, Check]]:
    """Where a variant can be asked, and what raises once it cannot.

    :param url: where its cluster runs, if it does.
    :raises MeasureError: it never can.
    """
    started_at, began_s = records.now(), time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        check: Check = _nobody_can_tell
        if url or variant.url:
            status = await ask(folder.cluster_file(variant.name)) if url else None
            on = _elsewhere(variant, url or variant.url or "", started_at, status)
        else:
            file, log_file = folder.cluster_file(variant.name), folder.of(variant.name) / "up.log"
            cluster = await stack.enter_async_context(running(file, log_file, folder.sweep.ready_timeout_s))
            check = cluster.check_alive
            on = replace(records.ran(cluster.status, started_at), ready_s=round(time.monotonic() - began_s, 1))
        folder.write_ran(variant.name, on)
        yield on, check
    folder.write_ran(variant.name, replace(on, ended_at=records.now()))


def _nobody_can_tell() -> None:
    """Of an endpoint that is not ours."""


def _elsewhere(variant: Variant, url: str, started_at: str, status: ClusterStatus | None) -> Ran:
    """Of an endpoint that runs already.

    :param status: of a cluster of ours; None: it does not answer here, or is none.
    """
    if status is not None:
        return replace(records.ran(status, started_at), url=url)
    return Ran(
        version=__version__,
        machine=records.this_machine(),
        started_at=started_at,
        url=url,
        num_gpus=variant.num_gpus,
        num_cores=variant.num_cores,
    )


def _runs_on(on: Ran) -> str:
    return f"{on.num_gpus} GPUs" if on.num_gpus else f"{on.num_cores} cores" if on.num_cores else "on nobody said what"


def _figures(report: ServeReport) -> str:
    figures = (
        (report.output_throughput, "{:.0f} tok/s"),
        (report.interactivity, "{:.1f} tok/s/user"),
        (report.p99_ttft_ms, "TTFT p99 {:.0f} ms"),
        (report.p99_tpot_ms, "TPOT p99 {:.1f} ms"),
        (report.p99_e2el_ms, "E2EL p99 {:.0f} ms"),
        (report.request_goodput, "{:.3g} good req/s"),
    )
    told = ", ".join(form.format(value) for value, form in figures if value is not None)
    return f"{told}, {report.failed} FAILED" if report.failed else told
