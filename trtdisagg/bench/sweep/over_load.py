"""The pictures over load: latency, and goodput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trtdisagg.bench.sweep import look
from trtdisagg.bench.sweep.results import Kind, Point, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOADS: dict[Kind, str] = {"concurrency": "requests at once", "rate": "requests/s offered"}
_TIMES = {"ttft": "time to first token (TTFT)", "tpot": "time per output token (TPOT)"}
_WHOLE_TIME = {"e2el": "time of a whole answer (E2EL)"}
"""Shown where there is none of the others, as nothing was streamed."""
_P99: dict[str, Any] = {"linewidth": 1.4, "linestyle": (0, (4, 2.5)), "markersize": 4.5}


def latency(results: Results, kind: Kind) -> Figure:
    """Two panels: until the first token, and between later ones."""
    subtitle = "Solid, large: the median. Dashed, small: the 99th percentile. Lower is better."
    shown = times(results, kind)
    handles: dict[str, Any] = {}
    with look.figure("Latency over load", subtitle, panels=len(shown)) as (made, panels):
        for axes, (time, words) in zip(panels, shown.items(), strict=True):
            handles |= _percentiles(axes, results, kind, time)
            axes.set_xlabel(LOADS[kind])
            axes.set_ylabel(f"{words}, ms")
            if time in results.goodput:
                look.target(axes, results.goodput[time], f"target\n{results.goodput[time]:g} ms")
        look.legend(made, list(handles.values()), list(handles))
    return made


def _percentiles(axes: Axes, results: Results, kind: Kind, time: str) -> dict[str, Any]:
    """:returns: by variant, its line for the legend."""
    handles: dict[str, Any] = {}
    values: list[float] = []
    loads: list[float] = []
    for i, one in enumerate(results.series):
        (x, p50), (_, p99) = (_curve(one.of(kind), f"p{q}_{time}_ms") for q in (50, 99))
        if x:
            (handles[one.label],) = axes.plot(x, p50, linewidth=1.8, **look.style(i))
            axes.plot(x, p99, **{**look.style(i), **_P99})
            values += [*p50, *p99]
            loads += x
    look.chosen(axes, "x", loads)
    look.logarithmic(axes, "y", values)
    return handles


def times(results: Results, kind: Kind) -> dict[str, str]:
    """Those that were seen, with their names."""
    points = [point for point in results.points if point.kind == kind]
    return {time: words for time, words in _TIMES.items() if _curve(points, f"p50_{time}_ms")[0]} or _WHOLE_TIME


def _curve(points: Sequence[Point], figure: str) -> tuple[list[float], list[float]]:
    """Load and figure of those that have it."""
    return look.xy([(point.value, value) for point in points if (value := point.figure(figure)) is not None])


def _good(results: Results, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Load, a rate's by unit, and goodput of those that have it."""
    found = [(point, results.per_unit(point, "request_goodput")) for point in points]
    units = (results.num_units(point) if point.kind == "rate" else 1 for point in points)
    return [(point.value / num, good) for (point, good), num in zip(found, units, strict=True) if good is not None]


def goodput(results: Results, kind: Kind) -> Figure:
    """Good requests a second of a unit; over a rate, the diagonal is where all are good."""
    per = "" if results.unit == "cluster" else f" per {results.unit}"
    with look.figure("Goodput", f"Requests a second that keep {results.targets}. Higher is better.") as (
        made,
        (axes,),
    ):
        handles: dict[str, Any] = {}
        loads: list[float] = []
        values: list[float] = []
        for i, one in enumerate(results.series):
            x, y = look.xy(_good(results, one.of(kind)))
            if x:
                (handles[one.label],) = axes.plot(x, y, **look.WHOLE, **look.style(i))
                loads += x
                values += y
        look.from_zero(axes, "y", values)
        axes.set_ylabel(f"good requests/s{per}")
        if kind == "rate":
            look.from_zero(axes, "x", loads)
            axes.set_xlabel(f"requests/s offered{per}")
            (handles["all are good"],) = axes.plot([0, max(loads)], [0, max(loads)], ":", color=look.QUIET, linewidth=1)
        else:
            look.chosen(axes, "x", loads)
            axes.set_xlabel(LOADS[kind])
        look.legend(made, list(handles.values()), list(handles))
    return made
