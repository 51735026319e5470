"""A sweep: which clusters, under which loads, how often. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec


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
