"""The pictures that people compare: throughput of a GPU over that of a user, latency over load, goodput over rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trtdisagg.bench.sweep import look
from trtdisagg.bench.sweep.labels import place
from trtdisagg.bench.sweep.results import Kind, Point, Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOADS: dict[Kind, str] = {"concurrency": "requests at once", "rate": "requests/s offered"}
_LINES: dict[Kind, str] = {"concurrency": "-", "rate": "--"}
_TIMES = {"ttft": "time to first token (TTFT)", "tpot": "time per output token (TPOT)"}
_WHOLE_TIME = {"e2el": "time of a whole answer (E2EL)"}
"""Shown where there is none of the others, as nothing was streamed."""
_P99: dict[str, Any] = {"linewidth": 1.4, "linestyle": (0, (4, 2.5)), "markersize": 4.5}
_WHOLE: dict[str, Any] = {"linewidth": 1.8, "clip_on": False}
"""Points at zero are seen, too."""
_MANY = 40
"""Points; their labels would cover each other."""
_TICKS_PT = 20.0
"""Height of what stands below an axis."""
_LETTER_PT, _LINE_PT = 5.6, 9.0
"""About what a letter of a label takes."""


class Picture(msgspec.Struct, kw_only=True, frozen=True):
    """One of them, drawn.

    :ivar name: of its file, without the ending.
    :ivar alt: what it shows, for those who do not see it.
    :ivar dark_svg: for a dark ground.
    """

    name: str
    alt: str
    png: bytes
    svg: bytes
    dark_svg: bytes


def draw(results: Results) -> Iterator[Picture]:
    """Those for which there are points."""
    if results.front():
        yield _picture("throughput", _throughput_alt(results), throughput(results))
    for kind, words in _LOADS.items():
        if not any(point.kind == kind for point in results.points):
            continue
        alt = f"{' and '.join(_times(results, kind).values()).capitalize()} over {words}, median and 99th percentile."
        yield _picture(f"latency-{kind}", alt, latency(results, kind))
        if results.goodput:
            alt = f"Goodput over {words}: requests a second that keep {targets(results)}."
            yield _picture(f"goodput-{kind}", alt, goodput(results, kind))


def _picture(name: str, alt: str, made: Figure) -> Picture:
    png, svg, dark_svg = look.saved(made)
    return Picture(name=name, alt=alt, png=png, svg=svg, dark_svg=dark_svg)


def targets(results: Results) -> str:
    """`TTFT 500 ms, TPOT 30 ms`"""
    return ", ".join(f"{name.upper()} {ms:g} ms" for name, ms in results.goodput.items())


# --- throughput -----------------------------------------------------------------------------------------------------


def throughput(results: Results) -> Figure:
    """Up and to the right is better; the front is what nothing else beats in both."""
    subtitle = "Up: more of the machine is used. Right: each user sees tokens sooner. At the points: the load."
    if len({point.kind for point in results.points}) > 1:
        subtitle += " Dashed: requests a second."
    with look.figure("Throughput and interactivity", subtitle) as (made, (axes,)):
        of_user, of_unit = _xy(_places(results, results.points))
        look.from_zero(axes, "x", of_user)
        look.from_zero(axes, "y", of_unit)
        axes.set_xlabel("output tok/s per user")
        axes.set_ylabel("output tok/s" if results.unit == "cluster" else f"output tok/s per {results.unit}")
        front = axes.plot(
            *_xy(_places(results, results.front())),
            color=look.FRONT,
            linewidth=9,
            alpha=0.45,
            solid_capstyle="round",
            zorder=1,
        )
        handles = {
            one.label: _line(axes, results, i, one)
            for i, one in enumerate(results.series)
            if _places(results, one.points)
        }
        look.legend(made, [*handles.values(), *front], [*handles, "Pareto front"])
        made.draw_without_rendering()  # only now is it known where a point is
        _label_points(axes, results)
    return made


def _throughput_alt(results: Results) -> str:
    best = ", ".join(f"{point.variant} with {point.words}" for point in results.front())
    return (
        f"Output tokens a second per {results.unit} over output tokens a second per user, a line for each of "
        f"{len(results.series)} variants. On the Pareto front are: {best}."
    )


def _places(results: Results, points: Sequence[Point]) -> list[tuple[float, float]]:
    return [place for point in points if (place := results.place(point))]


def _xy(places: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _line(axes: Axes, results: Results, i: int, series: Series) -> Any:
    """One variant; loads of both kinds are a line each, and one stands for both in the legend."""
    drawn = [
        axes.plot(*_xy(places), linestyle=_LINES[kind], **_WHOLE, **look.style(i))
        for kind in _LOADS
        if (places := _places(results, series.of(kind)))
    ]
    return drawn[0][0]


def _label_points(axes: Axes, results: Results) -> None:
    """The loads of points, in the colours of their variants."""
    pixels_per_pt = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    colours = {one.label: look.style(i)["color"] for i, one in enumerate(results.series)}
    points = [point for point in _told(results) if results.place(point)]
    places = _places(results, points)
    in_pt = [tuple(axes.transData.transform(at) / pixels_per_pt) for at in places]
    sizes = [(_LETTER_PT * len(point.label), _LINE_PT) for point in points]
    left, bottom = axes.transAxes.transform((0, 0)) / pixels_per_pt
    ticks = (left, bottom - _TICKS_PT, math.inf, bottom)
    for point, at, offset in zip(points, places, place(in_pt, sizes, [ticks]), strict=True):
        axes.annotate(
            point.label,
            at,
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=colours[point.variant],
        )


def _told(results: Results) -> list[Point]:
    """Points that have a label: all, or where they are many the front and the ends of lines."""
    if len(results.points) <= _MANY:
        return results.points
    ends = [point for one in results.series for point in (*one.points[:1], *one.points[1:][-1:])]
    return [*results.front(), *(point for point in ends if point not in results.front())]


# --- over load ------------------------------------------------------------------------------------------------------


def latency(results: Results, kind: Kind) -> Figure:
    """Two panels: until the first token, and between later ones."""
    subtitle = "Solid, large: the median. Dashed, small: the 99th percentile. Lower is better."
    times = _times(results, kind)
    handles: dict[str, Any] = {}
    with look.figure("Latency over load", subtitle, panels=len(times)) as (made, panels):
        for axes, (time, words) in zip(panels, times.items(), strict=True):
            handles |= _percentiles(axes, results, kind, time)
            axes.set_xlabel(_LOADS[kind])
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


def _times(results: Results, kind: Kind) -> dict[str, str]:
    """Those that were seen, with their names."""
    points = [point for point in results.points if point.kind == kind]
    return {time: words for time, words in _TIMES.items() if _curve(points, f"p50_{time}_ms")[0]} or _WHOLE_TIME


def _curve(points: Sequence[Point], figure: str) -> tuple[list[float], list[float]]:
    """Load and figure of those that have it."""
    return _xy([(point.value, value) for point in points if (value := point.figure(figure)) is not None])


def _good(results: Results, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Load, a rate's by unit, and goodput of those that have it."""
    found = [(point, results.per_unit(point, "request_goodput")) for point in points]
    units = (results.num_units(point) if point.kind == "rate" else 1 for point in points)
    return [(point.value / num, good) for (point, good), num in zip(found, units, strict=True) if good is not None]


def goodput(results: Results, kind: Kind) -> Figure:
    """Good requests a second of a unit; over a rate, the diagonal is where all are good."""
    per = "" if results.unit == "cluster" else f" per {results.unit}"
    with look.figure("Goodput", f"Requests a second that keep {targets(results)}. Higher is better.") as (
        made,
        (axes,),
    ):
        handles: dict[str, Any] = {}
        loads: list[float] = []
        values: list[float] = []
        for i, one in enumerate(results.series):
            x, y = _xy(_good(results, one.of(kind)))
            if x:
                (handles[one.label],) = axes.plot(x, y, **_WHOLE, **look.style(i))
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
            axes.set_xlabel(_LOADS[kind])
        look.legend(made, list(handles.values()), list(handles))
    return made
