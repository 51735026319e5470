"""What becomes of a load on every cluster that fits, and which is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from trtdisagg.bench.advise.load import Load, Targets
from trtdisagg.bench.advise.matching import Matching, match_rates
from trtdisagg.bench.advise.outcome import Outcome
from trtdisagg.bench.advise.simulate import Design, simulate

MAX_REQUESTS = 20_000
WORTH_IT = 1.05
"""Less of a gain is not worth a second kind of server, and less than a simulation can promise."""
NUM_BISECTIONS = 9
"""The rate is known to a 500th of its bound then."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster, and what became of the load on it."""

    num_context: int
    """0: servers that do both."""
    num_generation: int
    num_units: int
    units_each: tuple[int, int]
    """Of a context and of a generation server."""
    request_rate: float | None
    """It was asked at; where the question was how much it can, the highest that keeps the targets; 0: none does."""
    outcome: Outcome
    matching: Matching
    is_kept: bool
    """The targets."""

    @property
    def is_disaggregated(self) -> bool:
        return self.num_context > 0

    @property
    def goodput_per_unit(self) -> float:
        return self.outcome.goodput / self.num_units

    @property
    def words(self) -> str:
        """`2 context + 5 generation`, `3 aggregated servers`, `1 aggregated server of 2`"""
        if self.is_disaggregated:
            return f"{self.num_context} context + {self.num_generation} generation"
        size = f" of {self.units_each[1]}" * (self.units_each[1] > 1)
        return f"{self.num_generation} aggregated server{'s' * (self.num_generation > 1)}{size}"


def evaluate(design: Design, load: Load, targets: Targets) -> Row:
    """At the load's rate or concurrency; without either, at the highest rate that keeps the targets."""
    matching = match_rates(design, load, targets)
    rate: float | None
    if load.request_rate is None and load.concurrency is None:
        rate, outcome = _highest(design, load, targets, matching.request_rate)
    else:
        rate, outcome = load.request_rate, simulate(design, load, targets)
    context = design.context
    return Row(
        num_context=context.num if context else 0,
        num_generation=design.generation.num,
        num_units=design.num_units,
        units_each=(context.num_units if context else 0, design.generation.num_units),
        request_rate=rate,
        outcome=outcome,
        matching=matching,
        is_kept=_keeps(outcome, targets) and rate != 0,
    )


def best_first(rows: Sequence[Row]) -> list[Row]:
    """Those that keep the targets first, by goodput of a GPU. What differs by less than a simulation can promise counts
    as equal: of such clusters the one that serves more is better, then the one whose tokens come faster."""
    most = max((row.goodput_per_unit for row in rows if row.is_kept), default=0.0)

    def key(row: Row) -> tuple[bool, float, float, float, int]:
        goodput = row.goodput_per_unit
        steps_below = math.floor(math.log(most / goodput) / math.log(WORTH_IT)) if 0 < goodput <= most else math.inf
        return not row.is_kept, steps_below, -row.outcome.goodput, round(row.outcome.tpot_ms.p50, 1), row.num_units

    return sorted(rows, key=key)


def search(
    found: Sequence[Design], load: Load, targets: Targets, stage: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """All of them, the best first.

    :param stage: told how far it is.
    """
    rows = []
    for number, design in enumerate(found, 1):
        rows.append(evaluate(design, load, targets))
        if number % 25 == 0:
            stage(f"{number} of {len(found)} clusters simulated")
    return best_first(rows)


def _keeps(outcome: Outcome, targets: Targets) -> bool:
    return outcome.good_share >= targets.percentile / 100


def _highest(design: Design, load: Load, targets: Targets, bound: float) -> tuple[float, Outcome]:
    """Between nothing and what arithmetic allows. Where no rate keeps the targets: 0, and what a hundredth comes to."""
    low, high = 0.0, 1.2 * bound
    kept = None
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        outcome = simulate(design, _long_enough(design, load, middle), targets)
        if _keeps(outcome, targets):
            low, kept = middle, outcome
        else:
            high = middle
    return (low, kept) if kept else (0.0, simulate(design, load.at(bound / 100), targets))


def _long_enough(design: Design, load: Load, request_rate: float) -> Load:
    """Overload shows only when there are several times as many requests as are under way at once."""
    wanted = 4 * design.num_slots
    if len(load.gaps) < wanted:
        repeated = np.arange(min(wanted, MAX_REQUESTS)) % len(load.gaps)
        load = msgspec.structs.replace(
            load,
            num_prompt=load.num_prompt[repeated],
            num_output=load.num_output[repeated],
            gaps=np.random.default_rng(0).exponential(1.0, len(repeated)),
        )
    return load.at(request_rate)
