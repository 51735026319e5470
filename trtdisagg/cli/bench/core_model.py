"""`trtdisagg bench core-model`: Triton's `benchmark_core_model.py`, asked of an OpenAI endpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from trtdisagg.bench.serve.load import Load
from trtdisagg.cli.bench.files import writing
from trtdisagg.cli.bench.measuring import measure
from trtdisagg.cli.bench.serve_target import find_target
from trtdisagg.cli.terminal import console, say
from trtdisagg.cli.upstream_options import UNDERSCORES_TOO

if TYPE_CHECKING:
    from trtdisagg.bench.workloads.core_model import CoreModelLoad

DEFAULT_NUM_REQUESTS = 30_000

_GAPS: dict[str, Literal["gamma", "constant"]] = {"exponential_dist": "gamma", "constant": "constant"}


class _Said(msgspec.Struct, kw_only=True):
    """What stands before the name of the load."""

    url: str | None
    model: str | None
    concurrency: int
    request_rate: float
    time_delay_dist: str
    seed: int
    op_stats_csv: Path | None
    json: Path | None
    num_requests: int | None
    max_input_len: int | None


def _limits(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that its users give before the name of the load, and others behind it."""
    positive = click.IntRange(min=1)
    function = click.option("--max-input-len", type=positive, metavar="N", help="Leave out longer prompts.")(function)
    words = f"At most; a dataset may have fewer. [default: {DEFAULT_NUM_REQUESTS}]"
    return click.option("--num-requests", type=positive, metavar="N", help=words)(function)


@click.group(context_settings=UNDERSCORES_TOO)
@click.option(
    "-i",
    "--protocol",
    type=click.Choice(["openai"]),
    default="openai",
    show_default=True,
    expose_value=False,
    help="Triton's http and grpc are not spoken.",
)
@click.option("-u", "--url", metavar="URL", help="[default: the cluster here, or http://localhost:8000]")
@click.option("--model", metavar="NAME", help="[default: the only one there]")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--request-rate",
    type=float,
    default=-1.0,
    show_default=True,
    help="Requests a second; -1: as fast as --concurrency allows.",
)
@click.option(
    "--time-delay-dist",
    type=click.Choice([*_GAPS]),
    default="exponential_dist",
    show_default=True,
    help="Gaps between requests.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--op-stats-csv", type=click.Path(path_type=Path, dir_okay=False), help="Add a row with the table's values here."
)
@click.option("--json", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole report here.")
@_limits
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Ask what Triton's benchmark_core_model.py asks, and print its table.

    Ten other requests warm up, where there are so many. Answers go on to their length, whatever the model says.
    """
    said = _Said(**options)
    if said.request_rate != -1 and said.request_rate <= 0:
        raise click.UsageError("--request-rate is above 0, or -1: as fast as --concurrency allows")
    context.obj = said


@command.command()
@click.option("--dataset", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--tokenizer-dir", metavar="MODEL", required=True, help="Directory, tokenizer.json, alias or hub id.")
@click.option("--tokenizer-type", type=click.Choice(["auto"]), default="auto", show_default=True, expose_value=False)
@click.option(
    "--op-tokens-per-word",
    type=click.FloatRange(min=0, min_open=True),
    default=1.3,
    show_default=True,
    help="Of recorded outputs: answers are to have so many tokens.",
)
@_limits
@click.pass_obj
def dataset(
    said: _Said,
    *,
    file: Path,
    tokenizer_dir: str,
    op_tokens_per_word: float,
    num_requests: int | None,
    max_input_len: int | None,
) -> int:
    """Ask what stands in a file: JSON with input, instruction and output, or any that `bench serve --dataset` takes."""
    from trtdisagg.bench.workloads.core_model import dataset_load
    from trtdisagg.bench.workloads.vocabulary import load_vocabulary

    asked = dataset_load(
        file,
        load_vocabulary(tokenizer_dir),
        num_requests=num_requests or said.num_requests or DEFAULT_NUM_REQUESTS,
        max_input_len=max_input_len or said.max_input_len,
        tokens_per_word=op_tokens_per_word,
    )
    if asked.tokens_per_word is not None:
        say(f"Tokenizer: Tokens per word = {asked.tokens_per_word:.3f}")
    return _measure(said, asked, file.name)


@command.command()
@click.option("--input-mean", type=click.IntRange(min=1), required=True, help="Tokens of a prompt.")
@click.option("--input-stdev", type=click.FloatRange(min=0), required=True)
@click.option("--output-mean", type=click.IntRange(min=1), required=True, help="Tokens of an answer.")
@click.option("--output-stdev", type=click.FloatRange(min=0), required=True)
@_limits
@click.pass_obj
def token_norm_dist(
    said: _Said,
    *,
    input_mean: int,
    input_stdev: float,
    output_mean: int,
    output_stdev: float,
    num_requests: int | None,
    max_input_len: int | None,
) -> int:
    """Ask random tokens, with normally distributed lengths of prompts and answers."""
    from trtdisagg.bench.workloads.core_model import norm_dist_load
    from trtdisagg.bench.workloads.lengths import Normal

    asked = norm_dist_load(
        Normal(input_mean, input_stdev),
        Normal(output_mean, output_stdev),
        num_requests=num_requests or said.num_requests or DEFAULT_NUM_REQUESTS,
        max_input_len=max_input_len or said.max_input_len,
        seed=said.seed,
    )
    return _measure(said, asked, f"ISL normal:{input_mean},{input_stdev:g}, OSL normal:{output_mean},{output_stdev:g}")


def _with_scheme(url: str | None) -> str | None:
    """`localhost:8000` is how its users know it."""
    return url if url is None or "://" in url else f"http://{url}"


def _measure(said: _Said, asked: CoreModelLoad, words: str) -> int:
    from trtdisagg.bench.workloads.build import Built
    from trtdisagg.cli.bench.core_model_view import core_model_view, stats_writing

    load = Load(
        url=find_target(_with_scheme(said.url)).url,
        model=said.model,
        num_prompts=asked.num_prompts,
        num_warmups=asked.num_warmups,
        concurrency=said.concurrency,
        request_rate=math.inf if said.request_rate == -1 else said.request_rate,
        arrivals=_GAPS[said.time_delay_dist],
        seed=said.seed,
        is_streamed=False,
        ignore_eos=True,
    )
    built = Built(asked.workload, f"{asked.num_prompts:,} requests, {words}")
    with writing(said.json) as write, stats_writing(said.op_stats_csv) as write_stats:
        report, signum = measure(load, lambda _: built)
        try:
            write(report)
            write_stats(report)
        finally:
            console().print(core_model_view(report))
    if signum:
        return 128 + signum
    return 0 if report.completed else 1
