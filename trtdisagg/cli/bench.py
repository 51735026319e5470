"""`trtdisagg bench`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from trtdisagg.bench.engine import measure_engine
from trtdisagg.cli.bench_view import bench_view
from trtdisagg.cli.terminal import console, say
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.bench import WORKLOADS, Measure, Report, Workload

_TIMEOUT_S = 3600.0


@click.group()
def command() -> None:
    """Measure how fast this machine serves."""


@command.command()
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
def engine(*, workloads: str, file: Path | None, **measured: Any) -> None:
    """Measure the engine without HTTP, and the machine's limits beside it.

    w1: one stream, 128 tokens in and 128 out. w2: 32 at once, 128 in and 128 out. w3: 8 prompts of 1024 tokens. The
    best of all rounds counts, as a share of what the machine's memory and arithmetic allow.
    """
    measure = Measure(workloads=_workloads(workloads), **measured)
    with _writing(file) as write:
        report = measure_engine(measure, say, timeout_s=_TIMEOUT_S)
        write(report)
    console().print(bench_view(report))


def _workloads(words: str) -> tuple[Workload, ...]:
    wanted = words.split(",")
    if unknown := [word for word in wanted if word not in WORKLOADS]:
        raise click.UsageError(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    return tuple(name for name in WORKLOADS if name in wanted)


@contextlib.contextmanager
def _writing(file: Path | None) -> Iterator[Callable[[Report], None]]:
    """Whether the file can be written is known before anything is measured; it is replaced when there is a report.

    :raises ConfigError: when it cannot.
    """
    if file is None:
        yield lambda _: None
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
    except OSError as e:
        raise ConfigError(f"--json {file} cannot be written: {e.strerror or e}") from e
    temporary = Path(name)

    def write(report: Report) -> None:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        temporary.chmod(0o644)
        temporary.replace(file)

    os.close(descriptor)
    try:
        yield write
    finally:
        temporary.unlink(missing_ok=True)
