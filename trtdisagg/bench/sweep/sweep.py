"""A sweep: which clusters, under which loads, how often. Pure: a sweep file in, variants and cells out."""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from trtdisagg.bench.serve.load import GOALS
from trtdisagg.bench.sweep.file import SweepFile, VariantEntry
from trtdisagg.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,=+-]{0,99}")
_OURS = re.compile(r".*\.(json|yaml|png|html)")
"""Files of the folder that variants' folders lie in."""
_WHOLE_FILE = "base"
_NUMBERS = ("rounds", "num_prompts")
"""Options of which each kind of cell has one."""


class Cell(msgspec.Struct, frozen=True):
    """One run of a load on one variant.

    :ivar value: requests in flight, or a second.
    :ivar repetition: from 1.
    """

    variant: str
    kind: Literal["concurrency", "rate"]
    value: float
    repetition: int = 1

    @property
    def folder(self) -> str:
        """`c008`, the second time `c008-2`; of a rate `r2.5`."""
        load = f"c{int(self.value):03d}" if self.kind == "concurrency" else f"r{self.value:g}"
        return load if self.repetition == 1 else f"{load}-{self.repetition}"

    @property
    def seed(self) -> int:
        """The same for all variants, so that they are asked the same; of each cell another, whose prompts are in no
        cache yet."""
        return zlib.crc32(self.folder.encode()) % 10_000

    @property
    def words(self) -> str:
        return f"{self.value:g} at once" if self.kind == "concurrency" else f"{self.value:g} req/s"


class Variant(msgspec.Struct, kw_only=True, frozen=True):
    """One of the clusters.

    :ivar cluster: its cluster file, as the sweep file names it; None: it runs already, at `url`.
    :ivar overrides: `a.b=c` each.
    """

    name: str
    cluster: str | None = None
    overrides: list[str] = []
    url: str | None = None
    num_gpus: int = 0
    num_cores: int = 0


class Sweep(msgspec.Struct, kw_only=True, frozen=True):
    """All of it.

    :ivar load: options for each run of `bench serve`.
    :ivar rounds: for cells of a concurrency; None: `num_prompts` is for these, too.
    """

    variants: list[Variant]
    concurrencies: list[int] = []
    request_rates: list[float] = []
    repetitions: int = 1
    load: list[str] = []
    rounds: int | None = None
    num_prompts: int | None = None
    goodput: dict[str, float] = {}
    ready_timeout_s: float
    cell_timeout_s: float

    def words(self, cell: Cell) -> list[str]:
        """Options of `bench serve` for a cell."""
        is_concurrency = cell.kind == "concurrency"
        load = options({"concurrency": int(cell.value)} if is_concurrency else {"request_rate": cell.value})
        if is_concurrency and self.rounds is not None:
            load += options({"rounds": self.rounds})
        else:
            load += options({"num_prompts": self.num_prompts})
        goodput = [f"{name}:{ms:g}" for name, ms in self.goodput.items()]
        return [*load, *options({"seed": cell.seed, "goodput": goodput}), *self.load]

    def cells(self, variant: str) -> list[Cell]:
        """Those of a variant, in the order in which they are run."""
        return [
            cell
            for n in range(1, self.repetitions + 1)
            for cell in (
                *(Cell(variant, "concurrency", float(c), n) for c in self.concurrencies),
                *(Cell(variant, "rate", rate, n) for rate in self.request_rates),
            )
        ]


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


def options(load: dict[str, Any]) -> list[str]:
    """Words of a command line: of `{isl: 128, no_stream: true}`, `--isl 128 --no-stream`. What is null or false is left
    out, a list is an option for each of its values, a mapping is JSON."""
    return [word for key, value in load.items() for word in _option(f"--{key.replace('_', '-')}", value)]


def _option(name: str, value: Any) -> Iterator[str]:
    if value is True:
        yield name
    elif isinstance(value, list):
        for item in value:
            yield from _option(name, item)
    elif value is not None and value is not False:
        yield from (name, msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value))


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
