"""Advice as a table, and the sentence below it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.bench.advise.advice import Advice
from trtdisagg.bench.advise.outcome import Spread
from trtdisagg.bench.advise.search import Row
from trtdisagg.cli.fitted import fitted

NUM_ROWS = 12
"""The best ones; the best aggregated cluster is always among them."""


_SPARE = ("ITL\np99", "tok/s", "good")
"""Columns that a narrow terminal does without; --json has them."""


def advise_view(advice: Advice, width: int) -> RenderableType:
    """:param width: of the terminal."""
    table = fitted(functools.partial(_table, advice), _SPARE, width)
    verdict = advice.verdict
    return Group(table, Text(), Text(verdict.sentence, "bold"), *map(Text, verdict.reasons), _legend(advice))


def _table(advice: Advice, spared: Collection[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("cluster", no_wrap=True)
    names = _columns(advice.unit)
    shown = [name not in spared for name in names]
    for name in itertools.compress(names, shown):
        table.add_column(name, justify="right")
    for row in _shown(advice):
        style = "" if row.is_kept else "dim"
        table.add_row(Text(row.words), *itertools.compress(_cells(row), shown), style=style)
    return table


def _columns(unit: str) -> list[str]:
    return [
        f"{unit}s",
        "req/s",
        "tok/s",
        "good",
        f"good/s\n/{unit}",
        "TTFT\np50 / p99",
        "TPOT\np50 / p99",
        "ITL\np99",
        "matched",
    ]


def _cells(row: Row) -> list[str]:
    outcome = row.outcome
    return [
        str(row.num_units),
        f"{outcome.request_throughput:.3g}",
        _figure(outcome.output_throughput),
        f"{outcome.good_share:.1%}",
        f"{row.goodput_per_unit:.3g}",
        _pair(outcome.ttft_ms),
        _pair(outcome.tpot_ms),
        f"{outcome.itl_ms.p99:.1f}",
        _figure(row.matching.output_throughput_per_unit),
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pair(spread: Spread) -> str:
    if not spread.p99:  # answers of one token have no time between two
        return "-"
    digits = 0 if spread.p99 >= 100 else 1
    return f"{spread.p50:,.{digits}f} / {spread.p99:,.{digits}f}"


def _shown(advice: Advice) -> list[Row]:
    rows = advice.rows[:NUM_ROWS]
    for wanted in (True, False):
        best = next((row for row in advice.rows if row.is_disaggregated is wanted), None)
        if best and best not in rows:
            rows.append(best)
    return rows


def _legend(advice: Advice) -> Text:
    question, profile = advice.question, advice.profile
    kept = f"; {question.targets.words}" if question.targets.words else ""
    rate = "the highest rate that keeps the targets" if not (question.request_rate or question.concurrency) else ""
    words = (
        f"{question.words}{kept}. {len(advice.rows)} clusters of up to {advice.num_units} {advice.unit}s simulated, "
        f"{question.num_requests} requests each{', at ' * bool(rate)}{rate}; times in ms. matched: tok/s of a "
        f"{advice.unit} if every server were always busy, in the ratio that takes. Profile of {profile.date}, "
        f"{profile.model} on {profile.machine}."
    )
    return Text(words, "dim")
