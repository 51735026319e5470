"""From a sweep file to the variants and cells that it means: the grid written out, mistakes named. Pure."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import msgspec

from trtdisagg.bench.serve.load import GOALS
from trtdisagg.bench.sweep.file import SweepFile, VariantEntry
from trtdisagg.bench.sweep.sweep import Sweep, Variant, options
from trtdisagg.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,=+-]{0,99}")
_OURS = re.compile(r".*\.(json|yaml|png|html)")
"""Files of the folder that variants' folders lie in."""
_WHOLE_FILE = "base"
_NUMBERS = ("rounds", "num_prompts")
"""Options of which each kind of cell has one."""


def make_sweep(file: SweepFile) -> Sweep:
    """
    :raises ConfigError: what does not hold together.
    """
    if unknown := file.goodput.keys() - set(GOALS):
        raise ConfigError(f"goodput: {min(unknown)}: there are {', '.join(GOALS)}")
    if not file.concurrencies and not file.request_rates:
        raise ConfigError("the sweep has no load: name `concurrencies` or `request_rates`")
    for key in ("concurrencies", "request_rates"):
        if twice := _twice(getattr(file, key)):
            raise ConfigError(f"{key}: {twice:g} stands here twice; `repetitions` runs each load more often")
    variants = [_variant(file, entry) for entry in (*file.variants, *_grid(file.grid))]
    if not variants:
        variants = [_variant(file, VariantEntry(name=_WHOLE_FILE))]
    if twice := _twice([variant.name for variant in variants]):
        raise ConfigError(f"variants: two are named {twice}")
    return Sweep(
        variants=variants,
        concurrencies=file.concurrencies,
        request_rates=file.request_rates,
        repetitions=file.repetitions,
        load=options({key: value for key, value in file.load.items() if key not in _NUMBERS}),
        rounds=file.load.get("rounds"),
        num_prompts=file.load.get("num_prompts"),
        goodput=file.goodput,
        ready_timeout_s=file.ready_timeout_s,
        cell_timeout_s=file.cell_timeout_s,
    )


def _twice(values: list[Any]) -> Any:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _variant(file: SweepFile, entry: VariantEntry) -> Variant:
    name, cluster = entry.name, entry.cluster or file.cluster
    if not _NAME.fullmatch(name) or _OURS.fullmatch(name):
        raise ConfigError(f"variants: {name!r}: a folder will be called so: letters, digits and . , = + - _ only")
    if entry.url is None and cluster is None:
        raise ConfigError(f"variants: {name} has neither `cluster` nor `url`, and the sweep no `cluster`")
    if entry.url is not None and (entry.cluster or entry.set):
        raise ConfigError(
            f"variants: {name} has a `url`, so its servers run already: `cluster` and `set` are not for it"
        )
    if entry.url is None and (entry.num_gpus or entry.num_cores):
        raise ConfigError(
            f"variants: {name}: num_gpus and num_cores are for a `url`; of our own clusters they are known"
        )
    return Variant(
        name=name,
        cluster=None if entry.url else cluster,
        overrides=[f"{path}={_text(value)}" for path, value in entry.set.items()],
        url=entry.url,
        num_gpus=entry.num_gpus,
        num_cores=entry.num_cores,
    )


def _text(value: Any) -> str:
    """A value as `--set` reads it: JSON is YAML."""
    return msgspec.json.encode(value).decode()


def _grid(grid: dict[str, list[Any]]) -> list[VariantEntry]:
    """A variant for each combination, the last key changing fastest."""
    for path, values in grid.items():
        if not values:
            raise ConfigError(f"grid: {path} has no values")
    labels = _labels(list(grid))
    combinations = itertools.product(*grid.values()) if grid else ()
    return [
        VariantEntry(
            name=",".join(f"{label}={_word(value)}" for label, value in zip(labels, values, strict=True)),
            set=dict(zip(grid, values, strict=True)),
        )
        for values in combinations
    ]


def _labels(paths: list[str]) -> list[str]:
    """Each path's last key, behind the role where several paths end in the same."""
    ends = Counter(path.rpartition(".")[2] for path in paths)
    return [end if ends[end := path.rpartition(".")[2]] == 1 else path.replace("_servers", "") for path in paths]


def _word(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value)).strip("-")
