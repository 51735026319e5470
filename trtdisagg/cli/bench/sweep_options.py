"""From a sweep file and the options beside it to a sweep whose loads and cluster files are known to be right."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from trtdisagg.bench.sweep.expand import make_sweep
from trtdisagg.bench.sweep.file import SweepFile
from trtdisagg.bench.sweep.sweep import Sweep, options
from trtdisagg.config import shape
from trtdisagg.config.load import Loaded, load
from trtdisagg.config.located import Located, Place, read, read_value
from trtdisagg.config.strict import convert
from trtdisagg.errors import ConfigError

_OPTIONS = [
    click.option("--cluster", metavar="FILE", help="The cluster file that variants differ from."),
    click.option(
        "--variant",
        "variants",
        multiple=True,
        metavar="NAME[:KEY=VALUE;...]",
        help="A cluster to measure, and what is different from the file; may be repeated.",
    ),
    click.option(
        "--grid", multiple=True, metavar="KEY=LIST", help="Each value of a key is a variant, with each of other keys."
    ),
    click.option("--concurrencies", metavar="LIST", help="Requests at once, as 1,8,32."),
    click.option("--request-rates", metavar="LIST", help="Requests a second."),
    click.option("--load", multiple=True, metavar="KEY=VALUE", help="An option of `bench serve`, as isl=1024."),
    click.option("--goodput", multiple=True, metavar="NAME=MS", help="What a good request keeps, as ttft=500."),
    click.option("--repetitions", metavar="N", help="Of each load; the median is shown."),
]
_CLUSTER_KEYS = {"model", "models", "context_servers", "generation_servers"}
_OURS = ("url", "concurrency", "request_rate", "goodput", "json", "num_gpus", "num_cores")
"""Options of `bench serve` that the sweep gives it."""


def sweep_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that `read_sweep` takes."""
    return functools.reduce(lambda command, option: option(command), reversed(_OPTIONS), function)


def read_sweep(file: Path | None, said: dict[str, Any]) -> Sweep:
    """
    :param said: the options, among others; each in place of the file's key, of a mapping in place of a key in it.
    :raises ConfigError: what does not hold together.
    """
    root = read(file) if file else Located({}, Place("the sweep"))
    if file and not _CLUSTER_KEYS.isdisjoint(root.children):
        raise ConfigError(f"{file} is a cluster file; `--cluster {file}` measures variants of it")
    given = {key: _located(key, said[key]) for key in shape.keys(SweepFile) if said.get(key)}
    both = {key: _over(root.children.get(key), child) for key, child in given.items()}
    root = root.replace({**root.children, **both})
    asked = convert(root, SweepFile)
    directory = file.parent if file else Path()
    asked = replace(asked, load=_checked_load(asked.load, directory, root.children.get("load") or root))
    sweep = make_sweep(asked)
    whole = [
        v if v.cluster is None else replace(v, cluster=os.path.abspath(directory / v.cluster)) for v in sweep.variants
    ]
    return replace(sweep, variants=whole)


def loaded_variants(sweep: Sweep, overrides: Sequence[str] = ()) -> dict[str, Loaded]:
    """By variant, the cluster that is ours to bring up.

    :param overrides: for all of them; a variant's own win.
    :raises ConfigError: a cluster file is wrong, with the variant's name.
    """
    found = {}
    for variant in sweep.variants:
        if variant.cluster is not None:
            try:
                found[variant.name] = load(variant.cluster, [*overrides, *variant.overrides], env={})
            except ConfigError as e:
                raise ConfigError(f"{variant.name}: {e.message}") from None
    return found


def check_only(only: Sequence[str], sweep: Sweep) -> None:
    """
    :raises ConfigError: there is no such variant.
    """
    names = [variant.name for variant in sweep.variants]
    for name in only:
        if name not in names:
            near = shape.nearest(name, names)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"--only {name}: there is no such variant; {hint}")


def _located(key: str, value: Any) -> Located:
    """What an option says, as if it stood in the file."""
    place = Place(f"--{key.removesuffix('s') if key == 'variants' else key.replace('_', '-')}")
    match key:
        case "cluster":
            return Located(os.path.abspath(value), place)
        case "variants":
            return Located([_variant(text, place) for text in value], place)
        case "grid" | "load" | "goodput":
            return _mapping(value, place, is_list=key == "grid")
        case "concurrencies" | "request_rates":
            return read_value(f"[{value}]", place)
    return read_value(value, place)


def _over(written: Located | None, given: Located) -> Located:
    """Of a mapping the keys that were given; of anything else all of it."""
    return given.replace({**written.children, **given.children}) if written and written.children else given


def _variant(text: str, place: Place) -> Located:
    """`NAME:KEY=VALUE;KEY=VALUE`"""
    name, colon, overrides = text.partition(":")
    entry = {"name": Located(name, place)}
    if colon:
        entry["set"] = _mapping(overrides.split(";"), place, is_list=False)
    return Located(entry, place)


def _mapping(texts: Iterable[str], place: Place, *, is_list: bool) -> Located:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{place}: {text!r}: expected KEY=VALUE")
        found[key.strip()] = read_value(f"[{value}]" if is_list else value, place)
    return Located(found, place)


def _checked_load(load: dict[str, Any], directory: Path, at: Located) -> dict[str, Any]:
    """The same, with whole paths: each is an option of `bench serve`, which understands its value."""
    from trtdisagg.cli.bench.serve import command as serve

    known = {name: p for p in serve.params if isinstance(p, click.Option) for name in _names(p) if name not in _OURS}
    for key in load:
        if key not in known:
            near = shape.nearest(key, known)
            why = f"did you mean {near}?" if near else f"`bench serve` has {', '.join(sorted(known))}"
            why = "`bench serve` is told that by the sweep" if key in _OURS else why
            raise ConfigError(f"{at.at(key).place.naming(f'load.{key}')}: unknown key; {why}")
    whole = {key: _whole(value, known[key], directory) for key, value in load.items()}
    for key, value in whole.items():
        try:
            serve.make_context("bench serve", options({key: value}))
        except click.UsageError as e:
            raise ConfigError(f"{at.at(key).place.naming(f'load.{key}')}: {e.format_message()}") from None
    return whole


def _names(option: click.Option) -> list[str]:
    return [name.lstrip("-").replace("-", "_") for name in option.opts]


def _whole(value: Any, option: click.Option, directory: Path) -> Any:
    is_path = isinstance(option.type, click.Path) and isinstance(value, str)
    return os.path.abspath(directory / value) if is_path else value
