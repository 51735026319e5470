"""`trtdisagg bench`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from trtdisagg.bench.program import measured
from trtdisagg.cli.bench_kv_view import bench_kv_view
from trtdisagg.cli.bench_proxy_view import bench_proxy_view
from trtdisagg.cli.bench_view import bench_view
from trtdisagg.cli.terminal import console, say
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.bench import WORKLOADS, Measure, Report
from trtdisagg.protocol.bench_kv import MAX_TOKENS, NUMS_OF_TOKENS, SHAPES, TRANSPORTS, KvMeasure, KvReport, parse_pair

W = TypeVar("W", bound=str)
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
def engine(*, workloads: str, file: Path | None, **options: Any) -> None:
    """Measure the engine without HTTP, and the machine's limits beside it.

    w1: one stream, 128 tokens in and 128 out. w2: 32 at once, 128 in and 128 out. w3: 8 prompts of 1024 tokens. The
    best of all rounds counts, as a share of what the machine's memory and arithmetic allow.
    """
    measure = Measure(workloads=_some(WORKLOADS, workloads, "workload"), **options)
    with _writing(file) as write:
        report = measured("trtdisagg.engine.measure", measure, Report, say, timeout_s=_TIMEOUT_S)
        write(report)
    console().print(bench_view(report))


@command.command()
@click.option("--models", default=",".join(SHAPES), show_default=True, help="Whose shape the KV has.")
@click.option("--layouts", help="Pairs such as tp2-pp2: from the context to the generation server. [default: by model]")
@click.option("--transports", help="With commas between. [default: all that work here]")
@click.option("--tokens", default=",".join(map(str, NUMS_OF_TOKENS)), show_default=True, help="Of the prompts.")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=5, show_default=True, help="At least.")
@click.option("--max-mib", type=click.IntRange(min=1), default=512, show_default=True, help="KV of a prompt at most.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
def kv(
    *,
    models: str,
    layouts: str | None,
    transports: str | None,
    tokens: str,
    num_rounds: int,
    max_mib: int,
    file: Path | None,
) -> None:
    """Measure how fast KV moves between two servers of this host, and what could be reached.

    All ranks of both servers are processes, as they are when they serve. The KV of a prompt is moved by them, copied
    within memory, and moved by the bare transport, in turn; the best of all rounds counts. Of a prompt whose KV is
    larger than --max-mib the first layers are moved.
    """
    measure = KvMeasure(
        models=_some(tuple(SHAPES), models, "model"),
        pairs=tuple(layouts.split(",")) if layouts else (),
        transports=_some(TRANSPORTS, transports, "transport") if transports else (),
        nums_of_tokens=_numbers(tokens),
        num_rounds=num_rounds,
        max_bytes=max_mib << 20,
    )
    _check_pairs(measure)
    with _writing(file) as write:
        report = measured("trtdisagg.cache.measure", measure, KvReport, say, timeout_s=_TIMEOUT_S)
        write(report)
    console().print(bench_kv_view(report))


@command.command()
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="COMMAND",
    help="Measure this proxy, too; in it {context} and {generation} stand for host:port, {port} for its own port.",
)
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--quick", "is_quick", is_flag=True, help="A tenth of the load: whether it works, not how fast it is.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
def proxy(*, peers: tuple[str, ...], num_rounds: int, is_quick: bool, file: Path | None) -> None:
    """Measure what the proxy costs, and other proxies beside it.

    Each stands between two scripted servers and a load client that are faster than any of them. Every request passes a
    context and a generation server. The best of all rounds counts.
    """
    from trtdisagg.bench.proxy.measure import measure_proxies

    with _writing(file) as write:
        report = measure_proxies(peers, num_rounds=num_rounds, is_quick=is_quick, stage=say)
        write(report)
    console().print(bench_proxy_view(report))


def _some(known: tuple[W, ...], words: str, what: str) -> tuple[W, ...]:
    wanted = words.split(",")
    if unknown := [word for word in wanted if word not in known]:
        raise click.UsageError(f"there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _numbers(words: str) -> tuple[int, ...]:
    for word in (wanted := words.split(",")):
        if not word.isdecimal() or not 0 < int(word) <= MAX_TOKENS:
            raise click.UsageError(f"--tokens: {word!r} is not a number from 1 to {MAX_TOKENS}")
    return tuple(sorted({int(word) for word in wanted}))


def _check_pairs(measure: KvMeasure) -> None:
    for name in measure.models:
        for pair in measure.pairs:
            try:
                parse_pair(pair, name)
            except ValueError as e:
                raise click.UsageError(f"--layouts: {e}") from e


@contextlib.contextmanager
def _writing(file: Path | None) -> Iterator[Callable[[msgspec.Struct], None]]:
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

    def write(report: msgspec.Struct) -> None:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        temporary.chmod(0o644)
        temporary.replace(file)

    os.close(descriptor)
    try:
        yield write
    finally:
        temporary.unlink(missing_ok=True)
