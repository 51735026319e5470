"""Advice as a table, and the sentence below it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.bench.advise.advice import Advice
from trtdisagg.bench.advise.outcome import Spread
from trtdisagg.bench.advise.search import Row

NUM_ROWS = 12
"""The best ones; the best aggregated cluster is always among them."""


def advise_view(advice: Advice) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    table.add_column("cluster", no_wrap=True)
    for name in _columns(advice.unit):
        table.add_column(name, justify="right")
    for row in _shown(advice):
        style = "" if row.is_kept else "dim"
        table.add_row(Text(row.words), *_cells(row), style=style)
    verdict = advice.verdict
    return Group(table, Text(), Text(verdict.sentence, "bold"), *map(Text, verdict.reasons), _legend(advice))


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
        f"{outcome.output_throughput:,.0f}",
        f"{outcome.good_share:.1%}",
        f"{row.goodput_per_unit:.3g}",
        _pair(outcome.ttft_ms),
        _pair(outcome.tpot_ms),
        f"{outcome.itl_ms.p99:.1f}",
        f"{row.matching.output_throughput_per_unit:,.0f}",
    ]


def _pair(spread: Spread) -> str:
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
