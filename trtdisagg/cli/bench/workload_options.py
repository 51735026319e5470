"""The options that say what is asked: the same for each command that asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def workload_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; it gets them as `wanted`, a `bench.workloads.build.Wanted`."""

    @functools.wraps(function)
    def command(**options: Any) -> Any:
        from trtdisagg.bench.workloads.build import Wanted

        said = {name: options.pop(name) for name in Wanted.__struct_fields__}
        return function(wanted=Wanted(**said), **options)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_LENGTHS_HELP = "512, 128:512 (all lengths between) or normal:512,50 (mean, standard deviation). [default: 128]"
_OPTIONS = [
    click.option("--isl", metavar="LENGTHS", help=f"Tokens of a prompt: {_LENGTHS_HELP}"),
    click.option(
        "--osl", metavar="LENGTHS", help="Tokens of an answer, as --isl; of a dataset, in place of what was recorded."
    ),
    click.option(
        "--prefix-len",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        help="Have prompts begin with the same N tokens, before those of --isl.",
    ),
    click.option(
        "--num-prefixes",
        type=click.IntRange(min=1),
        metavar="K",
        default=1,
        show_default=True,
        help="With one of K beginnings, in turn.",
    ),
    click.option(
        "--dataset",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Ask what stands in this file: a prompt a line, JSON lines, ShareGPT (see docs/measuring.md).",
    ),
    click.option(
        "--max-input-len",
        type=click.IntRange(min=1),
        metavar="N",
        help="Leave out prompts of the dataset that have more tokens.",
    ),
    click.option(
        "--turns",
        type=click.IntRange(min=1),
        metavar="N",
        default=1,
        show_default=True,
        help="Hold conversations of N turns (of a dataset at most so many); needs --endpoint chat.",
    ),
    click.option(
        "--think-time",
        "think_s",
        type=click.FloatRange(min=0),
        metavar="S",
        default=0.0,
        help="Seconds between an answer and the next turn.",
    ),
    click.option(
        "--tokenizer",
        metavar="MODEL",
        help="Alias, directory, tokenizer.json, .gguf file or hub id. [default: the model's, if it lies here]",
    ),
]
