"""One cell: a run of `trtdisagg bench serve`, whose report is put in its place when it is whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio
from anyio.abc import Process

from trtdisagg.bench.program import MeasureError, ending
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.sweep.cluster import PROGRAM
from trtdisagg.bench.sweep.folder import Folder, read
from trtdisagg.bench.sweep.records import Ran
from trtdisagg.bench.sweep.sweep import Cell, Sweep, options
from trtdisagg.bench.tied import tied

_LOG = "serve.log"
_PART = "report.part.json"


async def run_cell(folder: Folder, cell: Cell, on: Ran) -> ServeReport:
    """
    :param on: where it runs.
    :raises MeasureError: there is no report, with the reason.
    """
    directory = folder.cell(cell)
    directory.mkdir(exist_ok=True)
    part = directory / _PART
    command = [*PROGRAM, *_words(folder.sweep, cell, on), "--json", str(part)]
    code = await _run(command, directory / _LOG, folder.sweep.cell_timeout_s)
    report = read(part, ServeReport)
    if code != 0 or report is None:
        part.unlink(missing_ok=True)
        raise MeasureError(f"bench serve ended with {code}{ending((directory / _LOG).read_bytes())}")
    part.replace(folder.report_file(cell))
    return report


def _words(sweep: Sweep, cell: Cell, on: Ran) -> list[str]:
    runs_on = {"num_gpus": on.num_gpus} if on.num_gpus else {"num_cores": on.num_cores}
    return ["bench", "serve", *options({"url": on.url, **runs_on}), *sweep.words(cell)]


async def _run(command: list[str], log_file: Path, timeout_s: float) -> int:
    with log_file.open("wb") as log:
        process = await anyio.open_process(
            tied(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with anyio.fail_after(timeout_s):
            return await process.wait()
    except TimeoutError:
        raise MeasureError(f"bench serve was not done after {timeout_s:g} s") from None
    finally:
        with anyio.CancelScope(shield=True):
            await _kill(process)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
