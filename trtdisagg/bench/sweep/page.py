"""The page: all that is known of a sweep in one file that asks for nothing else. What it says; how it looks is in
`page.html`."""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trtdisagg.bench.sweep.pictures import Picture
from trtdisagg.bench.sweep.results import Point, Results

_FEW = 30
"""Answers."""
_TEMPLATE = Path(__file__).with_name("page.html")


class Column(msgspec.Struct, frozen=True):
    """One figure in the table."""

    name: str
    unit: str
    of: Callable[[Point], float | None]
    form: str = "{:.0f}"

    def text(self, point: Point) -> str:
        value = self.of(point)
        return "-" if value is None else self.form.format(value)


class Row(msgspec.Struct, frozen=True):
    variant: str
    load: str
    is_best: bool
    values: list[str]
    notes: list[str]


class Best(msgspec.Struct, frozen=True):
    """One figure, and where it was reached."""

    what: str
    value: str
    variant: str
    load: str


def columns(results: Results) -> list[Column]:
    """Those of the table, on the page and on a terminal."""
    per = "tok/s" if results.unit == "cluster" else f"tok/s/{results.unit}"
    found = [
        Column("requests", "/s", lambda p: p.figure("request_throughput"), "{:.2f}"),
        Column("output", "tok/s", lambda p: p.figure("output_throughput")),
        Column("output", per, results.per_unit, "{:.1f}"),
        Column("of a user", "tok/s", lambda p: p.figure("interactivity"), "{:.1f}"),
        *(_time(time, q) for time in ("ttft", "tpot") for q in (50, 99)),
        *(_time(time, 99) for time in ("itl", "e2el")),
    ]
    if results.unit == "cluster":
        del found[2]
    if results.goodput:
        found.append(Column("goodput", "req/s", lambda p: p.figure("request_goodput"), "{:.2f}"))
    return found


def _time(time: str, q: int) -> Column:
    name = f"p{q}_{time}_ms"
    return Column(
        f"{time.upper()} p{q}", "ms", lambda p: p.figure(name), "{:.1f}" if time in ("tpot", "itl") else "{:.0f}"
    )


def rows(results: Results) -> list[Row]:
    best = {id(point) for point in results.front()}
    shown = columns(results)
    return [
        Row(
            point.variant,
            point.words,
            id(point) in best,
            [column.text(point) for column in shown],
            _notes(point),
        )
        for point in results.points
    ]


def _notes(point: Point) -> list[str]:
    """What to know before a row is believed."""
    failed = sum(report.failed for report in point.reports)
    notes = [f"{failed} requests failed"] if failed else []
    if any(report.is_client_bound for report in point.reports):
        notes.append("the load client was the bottleneck")
    if (fewest := min(report.completed for report in point.reports)) < _FEW:
        notes.append(f"of {fewest} answers only, so the percentiles say little")
    if len(point.reports) > 1:
        notes.append(f"{len(point.reports)} runs")
    return notes + [warning for report in point.reports[:1] for warning in report.warnings]


def best(results: Results) -> list[Best]:
    """The best of the figures that people ask for first, as far as there are any."""
    per = "" if results.unit == "cluster" else f" per {results.unit}"
    asked: list[tuple[str, Callable[[Point], float | None], str, Callable[..., tuple[float, Point]]]] = [
        (f"most output{per}", results.per_unit, "{:.1f} tok/s", max),
        ("fastest for a user", lambda p: p.figure("interactivity"), "{:.1f} tok/s", max),
        ("shortest TTFT, median", lambda p: p.figure("p50_ttft_ms"), "{:.0f} ms", min),
        (f"highest goodput{per}", lambda p: results.per_unit(p, "request_goodput"), "{:.2f} req/s", max),
    ]
    if not results.goodput:
        del asked[3]
    found = []
    for what, of, form, best_of in asked:
        if there := [(value, point) for point in results.points if (value := of(point)) is not None]:
            value, point = best_of(there, key=operator.itemgetter(0))
            found.append(Best(what, form.format(value), point.variant, point.words))
    return found


def page(results: Results, pictures: Sequence[Picture]) -> str:
    """HTML."""
    from jinja2 import Environment, StrictUndefined

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters["base64"] = lambda data: base64.b64encode(data).decode()
    told: dict[str, Any] = {
        "results": results,
        "best": best(results),
        "pictures": pictures,
        "columns": columns(results),
        "rows": rows(results),
        "failures": [
            {"variant": one.label, "what": what, "reason": reason}
            for one in results.series
            for what, reason in one.failures
        ],
    }
    return env.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(told)
