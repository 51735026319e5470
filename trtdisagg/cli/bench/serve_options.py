"""The options of a load, and the load that they make."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from trtdisagg.bench.serve.load import GOALS, Load
from trtdisagg.cli.bench.serve_target import find_target

DEFAULT_CONCURRENCY = 16
DEFAULT_NUM_PROMPTS = 100


def _api_key(file: Path) -> str:
    """Read once: what is no file on a disk is gone then."""
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise click.UsageError(f"--api-key-file {file} cannot be read: {e}") from e
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise click.UsageError(f"--api-key-file {file} holds no key: one line without spaces is one")
    return key


_POSITIVE = click.FloatRange(min=0, min_open=True)
_OPTIONS = [
    click.option("--url", metavar="URL", help="Of the endpoint. [default: the cluster here, or http://localhost:8000]"),
    click.option("--model", metavar="NAME", help="[default: the only one there]"),
    click.option("--endpoint", type=click.Choice(["completions", "chat"]), default="completions", show_default=True),
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Conversations at once, at most. [default: {DEFAULT_CONCURRENCY} without --request-rate]",
    ),
    click.option("--request-rate", type=_POSITIVE, metavar="R", help="Conversations that begin in a second."),
    click.option(
        "--arrivals",
        type=click.Choice(["exponential", "constant"]),
        default="exponential",
        show_default=True,
        help="Gaps between them: random, as of users who know nothing of each other, or equal.",
    ),
    click.option(
        "--burstiness",
        type=_POSITIVE,
        metavar="B",
        default=1.0,
        show_default=True,
        help="Below 1 arrivals come in bursts, above it more evenly (shape of a gamma distribution).",
    ),
    click.option("--ramp-to", type=_POSITIVE, metavar="R", help="Go from --request-rate to this one, evenly in time."),
    click.option(
        "--num-prompts",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"Conversations in all. [default: {DEFAULT_NUM_PROMPTS}]",
    ),
    click.option(
        "--rounds", type=click.IntRange(min=1), metavar="N", help="In place of it: N times as many as --concurrency."
    ),
    click.option(
        "--warmup",
        "num_warmups",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        help="Others before, not counted.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="The same one asks the same, at the same times."
    ),
    click.option("--no-stream", is_flag=True, help="Have whole answers: there is no TTFT, TPOT and ITL then."),
    click.option(
        "--cancel-rate",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        default=0.0,
        help="Of requests whose client leaves after a random token.",
    ),
    click.option(
        "--timeout", "timeout_s", type=_POSITIVE, metavar="S", default=600.0, show_default=True, help="For an answer."
    ),
    click.option(
        "--goodput",
        multiple=True,
        metavar="NAME:MS...",
        help=f"Count requests that keep these targets, as ttft:500 tpot:30 ({', '.join(GOALS)}).",
    ),
    click.option("--ignore-eos", is_flag=True, help="Have answers go on up to their limit."),
    click.option("--extra-body", metavar="JSON", help="More fields of each request, as '{\"temperature\": 0}'."),
    click.option("--save-detailed", "is_detailed", is_flag=True, help="Have --json tell of each request, too."),
    click.option(
        "--api-key-file",
        "api_key",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        callback=lambda _context, _option, file: file and _api_key(file),
        help="With the key of a client in it; may be <(printenv NAME).",
    ),
    click.option(
        "--num-gpus",
        type=click.IntRange(min=0),
        metavar="N",
        help="That the endpoint runs on, for throughput per GPU. [default: the cluster's]",
    ),
    click.option("--num-cores", type=click.IntRange(min=0), metavar="N", help="The same of CPU cores."),
]


def load_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that `load_of` takes."""
    return functools.reduce(lambda command, option: option(command), reversed(_OPTIONS), function)


def load_of(
    *,
    url: str | None,
    concurrency: int | None,
    request_rate: float | None,
    arrivals: str,
    num_prompts: int | None,
    rounds: int | None,
    no_stream: bool,
    extra_body: str | None,
    num_gpus: int | None,
    num_cores: int | None,
    **said: Any,
) -> Load:
    """
    :raises ConfigError: when it contradicts itself.
    """
    if concurrency is None and request_rate is None:
        concurrency = DEFAULT_CONCURRENCY
    target = find_target(url)
    nobody_said = num_gpus is None and num_cores is None
    return Load(
        url=target.url,
        concurrency=concurrency,
        request_rate=math.inf if request_rate is None else request_rate,
        arrivals="constant" if arrivals == "constant" else "gamma",
        num_prompts=_num_prompts(num_prompts, rounds, concurrency),
        is_streamed=not no_stream,
        extra_body=_object(extra_body),
        num_gpus=target.num_gpus if nobody_said else num_gpus or 0,
        num_cores=target.num_cores if nobody_said else num_cores or 0,
        **said,
    )


def _num_prompts(num_prompts: int | None, rounds: int | None, concurrency: int | None) -> int:
    if rounds is None:
        return num_prompts or DEFAULT_NUM_PROMPTS
    if num_prompts is not None:
        raise click.UsageError("--rounds says how many prompts there are, as --num-prompts does: give one of them")
    if concurrency is None:
        raise click.UsageError("--rounds is a multiple of --concurrency: give it, too")
    return rounds * concurrency


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as e:
        raise click.UsageError(f"--extra-body is not a JSON object: {e}") from e


def goodput_of(targets: Iterable[str], words: Iterable[str]) -> dict[str, float]:
    """Targets in ms by their names.

    :param targets: values of `--goodput`, each one or several `NAME:MS`.
    :param words: of the command line that belong to no option: `--goodput ttft:500 tpot:30` is how people know it.
    """
    said = " ".join(targets).replace(",", " ").split()
    words = list(words)
    if words and not said:
        raise click.UsageError(f"Got unexpected extra argument ({words[0]})")
    found: dict[str, float] = {}
    for word in (*said, *words):
        name, _, number = word.partition(":")
        if name not in GOALS or name in found or not (limit := _milliseconds(number)):
            raise click.UsageError(
                f"--goodput {word}: a target is NAME:MS, as ttft:500, each once, with {', '.join(GOALS)} for NAME"
            )
        found[name] = limit
    return found


def _milliseconds(number: str) -> float | None:
    """None: it is no time."""
    try:
        value = float(number)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
