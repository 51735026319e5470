"""`trtdisagg bench engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtdisagg.bench.program import measured
from trtdisagg.cli.bench.engine_view import bench_view
from trtdisagg.cli.bench.files import some, writing
from trtdisagg.cli.terminal import console, say
from trtdisagg.protocol.bench import WORKLOADS, Measure, Report

_TIMEOUT_S = 3600.0


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Alias, hub id, directory or .gguf.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True)
@click.option("--quantization", type=click.Choice(["none", "int8"]), default="none", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", "num_threads", type=click.IntRange(min=1), help="Of each executor; without it, its cores.")
@click.option("--workloads", default=",".join(WORKLOADS), show_default=True, help="With commas between.")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--disagg", "is_disaggregated", is_flag=True, help="A context and a generation executor, half the cores each."
)
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
def command(*, workloads: str, file: Path | None, **options: Any) -> None:
    """Measure the engine without HTTP, and the machine's limits beside it.

    w1: one stream, 128 tokens in and 128 out. w2: 32 at once, 128 in and 128 out. w3: 8 prompts of 1024 tokens. The
    best of all rounds counts, as a share of what the machine's memory and arithmetic allow.
    """
    measure = Measure(workloads=some(WORKLOADS, workloads, "workload"), **options)
    with writing(file) as write:
        report = measured("trtdisagg.engine.measure", measure, Report, say, timeout_s=_TIMEOUT_S)
        write(report)
    console().print(bench_view(report))
