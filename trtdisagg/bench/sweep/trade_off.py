"""Throughput of a GPU over that of a user: the picture of what one costs the other, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trtdisagg.bench.sweep import look
from trtdisagg.bench.sweep.labels import place
from trtdisagg.bench.sweep.results import Kind, Point, Results, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES: dict[Kind, str] = {"concurrency": "-", "rate": "--"}
_MANY = 40
"""Points; their labels would cover each other."""
_TICKS_PT = 20.0
"""Height of what stands below an axis."""
_LETTER_PT, _LINE_PT = 5.6, 9.0
"""About what a letter of a label takes."""


def throughput(results: Results) -> Figure:
    """Up and to the right is better; the front is what nothing else beats in both."""
    subtitle = "Up: more of the machine is used. Right: each user sees tokens sooner. At the points: the load."
    if len({point.kind for point in results.points}) > 1:
        subtitle += " Dashed: requests a second."
    with look.figure("Throughput and interactivity", subtitle) as (made, (axes,)):
        of_user, of_unit = look.xy(_places(results, results.points))
        look.from_zero(axes, "x", of_user)
        look.from_zero(axes, "y", of_unit)
        axes.set_xlabel("output tok/s per user")
        axes.set_ylabel("output tok/s" if results.unit == "cluster" else f"output tok/s per {results.unit}")
        front = axes.plot(
            *look.xy(_places(results, results.front())),
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


def throughput_alt(results: Results) -> str:
    best = ", ".join(f"{point.variant} with {point.words}" for point in results.front())
    return (
        f"Output tokens a second per {results.unit} over output tokens a second per user, a line for each of "
        f"{len(results.series)} variants. On the Pareto front are: {best}."
    )


def _places(results: Results, points: Sequence[Point]) -> list[tuple[float, float]]:
    return [place for point in points if (place := results.place(point))]


def _line(axes: Axes, results: Results, i: int, series: Series) -> Any:
    """One variant; loads of both kinds are a line each, and one stands for both in the legend."""
    drawn = [
        axes.plot(*look.xy(places), linestyle=_LINES[kind], **look.WHOLE, **look.style(i))
        for kind in _LINES
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
