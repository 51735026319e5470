"""`trtdisagg bench kv`."""

from __future__ import annotations

from pathlib import Path

import click

from trtdisagg.bench.program import measured
from trtdisagg.cli.bench.files import some, writing
from trtdisagg.cli.bench.kv_view import bench_kv_view
from trtdisagg.cli.terminal import console, say
from trtdisagg.protocol.bench_kv import MAX_TOKENS, NUMS_OF_TOKENS, SHAPES, TRANSPORTS, KvMeasure, KvReport, parse_pair

_TIMEOUT_S = 3600.0


@click.command()
@click.option("--models", default=",".join(SHAPES), show_default=True, help="Whose shape the KV has.")
@click.option("--layouts", help="Pairs such as tp2-pp2: from the context to the generation server. [default: by model]")
@click.option("--transports", help="With commas between. [default: all that work here]")
@click.option("--tokens", default=",".join(map(str, NUMS_OF_TOKENS)), show_default=True, help="Of the prompts.")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=5, show_default=True, help="At least.")
@click.option("--max-mib", type=click.IntRange(min=1), default=512, show_default=True, help="KV of a prompt at most.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too.")
def command(
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
        models=some(tuple(SHAPES), models, "model"),
        pairs=tuple(layouts.split(",")) if layouts else (),
        transports=some(TRANSPORTS, transports, "transport") if transports else (),
        nums_of_tokens=_numbers(tokens),
        num_rounds=num_rounds,
        max_bytes=max_mib << 20,
    )
    _check_pairs(measure)
    with writing(file) as write:
        report = measured("trtdisagg.cache.measure", measure, KvReport, say, timeout_s=_TIMEOUT_S)
        write(report)
    console().print(bench_kv_view(report))


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
