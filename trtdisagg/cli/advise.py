"""`trtdisagg advise`."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from trtdisagg.cli.bench.files import writing
from trtdisagg.cli.find import cluster_file, set_option
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.terminal import console, say
from trtdisagg.errors import ConfigError

if TYPE_CHECKING:
    from trtdisagg.bench.advise.advice import Question
    from trtdisagg.bench.advise.profile import Profile

_MODEL_FILE = "model: {model}\ncontext_servers: {{num_instances: 1}}\ngeneration_servers: {{num_instances: 1}}\n"
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
NUM_STREAMS = 64
"""At once, that are measured where nobody says how many there will be."""
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@click.option("--model", help="In place of FILE: one context and one generation server of it, with nothing else said.")
@set_option
@click.option("--isl", required=True, help="Tokens of prompts: 512, 128:512, normal:512,50.")
@click.option("--osl", required=True, help="Tokens of answers.")
@click.option("--request-rate", type=_POSITIVE, help="Requests a second, with exponential gaps.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Clients, each of which asks again when answered.")
@click.option("--ttft", "ttft_ms", type=_POSITIVE, metavar="MS", help="Longest time to the first token.")
@click.option("--tpot", "tpot_ms", type=_POSITIVE, metavar="MS", help="Longest time of each token behind it.")
@click.option(
    "--percentile",
    type=click.FloatRange(min=1, max=100),
    default=99.0,
    show_default=True,
    help="Of requests that have to keep each target.",
)
@click.option(
    "--gpus",
    "num_units",
    type=click.IntRange(min=1),
    metavar="N",
    help="To divide; without GPUs cores. [default: as many as were measured]",
)
@click.option(
    "--requests", "num_requests", type=click.IntRange(min=10), default=2000, show_default=True, help="Simulated."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--profile", type=_NEW_FILE, help="Read if it is there, or else what was measured is written here.")
@click.option("--profile-only", is_flag=True, help="Measure anew, write --profile, and that is all.")
@click.option("-o", "--output", type=_NEW_FILE, help="Write the cluster file that does it.")
@click.option("--json", type=_NEW_FILE, help="Write everything that was found.")
def command(*, file: str | None, model: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Say whether disaggregation pays for a load, and in which ratio.

    One context and one generation server are measured for two minutes (and, without GPUs, one server with the cores of
    both). From that every cluster that fits is simulated under the load, aggregated ones too. With neither
    --request-rate nor --concurrency the question is how much each can take within the targets.
    """
    files = Files(**{name: options.pop(name) for name in Files._fields})
    question = _question(**options)
    if files.profile_only and files.profile is None:
        raise click.UsageError("--profile-only writes a profile: say where, with --profile FILE")
    with _asked_about(file, model) as path:
        _check_output(files.output, path)
        _advise(path, overrides, question, files)


class Files(NamedTuple):
    """What is read and written."""

    profile: Path | None
    profile_only: bool
    output: Path | None
    json: Path | None


def _question(*, ttft_ms: float | None, tpot_ms: float | None, percentile: float, **asked: Any) -> Question:
    from trtdisagg.bench.advise.advice import Question
    from trtdisagg.bench.advise.load import Targets

    question = Question(targets=Targets(ttft_ms=ttft_ms, tpot_ms=tpot_ms, percentile=percentile), **asked)
    if question.request_rate and question.concurrency:
        raise click.UsageError("--request-rate and --concurrency are two kinds of load: one of them, please")
    if not question.targets.words and not question.concurrency:
        raise click.UsageError("name --ttft or --tpot: whatever keeps up with a rate serves the same requests a second")
    return question


def _advise(path: Path, overrides: tuple[str, ...], question: Question, files: Files) -> None:
    from trtdisagg.bench.advise.advice import advise
    from trtdisagg.bench.advise.cluster_file import cluster_text
    from trtdisagg.cli.advise_view import advise_view

    with writing(files.json) as write:
        profile = _profile(path, overrides, question, files)
        if files.profile_only:
            return
        advice = advise(path, overrides, profile, question, say)
        write(advice)
    out = console()
    out.print(advise_view(advice, out.width))
    if files.output:
        files.output.write_text(cluster_text(path, overrides, advice))
        say(f"{files.output} is that cluster: trtdisagg up {files.output}")


def _profile(path: Path, overrides: tuple[str, ...], question: Question, files: Files) -> Profile:
    """Read, or measured and kept."""
    import anyio

    from trtdisagg.bench.advise.measure.measure import measure_profile
    from trtdisagg.bench.advise.profile import read_profile
    from trtdisagg.bench.workloads.lengths import parse_lengths

    max_prompt = parse_lengths(question.isl).longest
    if files.profile and files.profile.exists() and not files.profile_only:
        return read_profile(files.profile)
    with writing(files.profile, "--profile") as keep:
        max_streams = question.concurrency or NUM_STREAMS
        measure = functools.partial(measure_profile, max_prompt=max_prompt, max_streams=max_streams, stage=say)
        profile = anyio.run(measure, path, overrides)
        keep(profile)
    return profile


def _check_output(output: Path | None, asked: Path) -> None:
    """Before two minutes are spent."""
    if output is None:
        return
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"-o {output}: there is no directory {output.absolute().parent}")
    if output.exists() and output.samefile(asked):
        raise ConfigError(f"-o {output} is the file that is asked about: name another")


@contextlib.contextmanager
def _asked_about(file: str | None, model: str | None) -> Iterator[Path]:
    """A cluster file, made where there is only a model."""
    if model is None:
        yield cluster_file((file,))
        return
    if file is not None:
        raise ConfigError(f"{file} or --model {model}: one of them, please")
    with tempfile.TemporaryDirectory(prefix="advise-") as directory:
        path = Path(directory, "cluster.yaml")
        named = str(Path(model).absolute()) if Path(model).exists() else model
        path.write_text(_MODEL_FILE.format(model=msgspec.json.encode(named).decode()))
        yield path
