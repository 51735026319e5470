"""The sweep file: every key, its default and its meaning.

cluster: cluster.yaml
variants:
  - {name: 1p1d, set: {context_servers.num_instances: 1, generation_servers.num_instances: 1}}
  - {name: aggregated, set: {context_servers.num_instances: 0, generation_servers.num_instances: 2}}
  - {name: theirs, url: "http://localhost:9000", num_gpus: 2}
concurrencies: [1, 8, 32]
load: {isl: 1024, osl: 128, rounds: 4}
goodput: {ttft: 500, tpot: 30}
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trtdisagg.config.key_types import Count, CountOrZero, Seconds, Section

Rate = Annotated[float, msgspec.Meta(gt=0)]
Milliseconds = Annotated[float, msgspec.Meta(gt=0)]


class VariantEntry(Section, frozen=True):
    """One of the clusters that are compared."""

    name: str
    """Its folder, and its name in pictures and tables."""
    cluster: str | None = None
    """Another cluster file than the sweep's; relative to the sweep file."""
    set: dict[str, Any] = {}
    """What is different from the cluster file, as `--set` takes it: `{generation_servers.num_instances: 2}`."""
    url: str | None = None
    """In place of a cluster file: an endpoint that runs already, and is left as it is."""
    num_gpus: CountOrZero = 0
    """That an endpoint of a `url` runs on; of our own clusters it is known."""
    num_cores: CountOrZero = 0
    """The same of CPU cores, where it has no GPUs."""


class SweepFile(Section, frozen=True):
    """The whole file."""

    cluster: str | None = None
    """The cluster file that variants differ from; relative to this file."""
    variants: list[VariantEntry] = []
    """Without any, and without `grid`, the cluster file as it is."""
    grid: dict[str, list[Any]] = {}
    """Keys as in `set`, and the values of each: every combination is one more variant."""
    concurrencies: list[Count] = []
    """Requests in flight: a cell for each."""
    request_rates: list[Rate] = []
    """Requests a second: a cell for each."""
    load: dict[str, Any] = {}
    """Options of `bench serve` without dashes: `{isl: 1024, osl: 128, rounds: 4}`; files are relative to this one. Of
    `rounds` and `num_prompts` the first is for concurrencies, the other for rates, if both are there."""
    goodput: dict[str, Milliseconds] = {}
    """What a good request keeps, in ms."""
    repetitions: Count = 1
    """Of each cell; pictures show the median."""
    ready_timeout_s: Seconds = 1800.0
    """From the start of a cluster until it can serve."""
    cell_timeout_s: Seconds = 3600.0
    """For one run of a load."""
