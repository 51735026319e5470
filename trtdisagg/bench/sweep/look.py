"""How pictures look: colours for light and dark pages, axes, legends. Knows matplotlib and nothing of what is drawn."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from trtdisagg.errors import StartupError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

GROUND, TEXT, QUIET, LINE, FRONT = "#ffffff", "#1d1d1b", "#6f6f69", "#e3e3df", "#f2b705"
SERIES = ("#2563c9", "#c4480c", "#12805c", "#9c36b5", "#8a6d00", "#0c7a8f", "#c2255c", "#555550")
"""Different for the colour-blind, too."""
_DARK = {
    GROUND: "#1f1f1e",
    TEXT: "#ececea",
    QUIET: "#9a9a92",
    LINE: "#34342f",
    FRONT: "#b88a00",
    **dict(
        zip(
            SERIES,
            ("#7fb0ff", "#ff9a62", "#4cc29a", "#d68cea", "#e0c04a", "#4cc3da", "#ff85ab", "#b5b5ad"),
            strict=True,
        )
    ),
}
"""On a dark ground: what stands in place of each colour."""
_MARKERS = "osD^vPX*"
_TICK_SHARE = 0.07
"""Of an axis, that a tick's word takes."""
_WIDE_RANGE = 8.0
"""From here on an axis is logarithmic, where it may be."""
WHOLE: dict[str, Any] = {"linewidth": 1.8, "clip_on": False}
"""A line whose points at zero are seen, too."""
_DPI = 150
_SIZE_IN = (10.4, 5.2)
_ROW_IN = 0.21
"""Of a legend; the first two have room."""
Which = Literal["x", "y"]
_SHORT = 24
"""Letters of a name, so that four fit in a line."""
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": TEXT,
    "axes.facecolor": GROUND,
    "axes.edgecolor": LINE,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.fonttype": "path",
    "svg.hashsalt": "trtdisagg",
    "savefig.facecolor": GROUND,
}


def check_there() -> None:
    """
    :raises StartupError: matplotlib is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise StartupError('the pictures need matplotlib: pip install "trtdisagg[bench]"')


@contextlib.contextmanager
def figure(title: str, subtitle: str, *, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its axes, for what is drawn in the block.

    :param panels: beside each other.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(_SETTINGS):
        made = Figure(figsize=_SIZE_IN, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.06))
        axes = list(made.subplots(1, panels, squeeze=False)[0])
        for each in axes:
            each.grid(visible=True, color=LINE, linewidth=0.8)
            each.set_axisbelow(True)
        axes[0].set_title(title, loc="left", fontsize=14, fontweight="bold", pad=30)
        axes[0].annotate(
            subtitle, (0, 1), (0, 14), xycoords="axes fraction", textcoords="offset points", fontsize=9.5, color=QUIET
        ).set_in_layout(False)  # else its length would move the panels apart
        yield made, axes


def style(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th series; where colours come again, with another marker."""
    return {
        "color": SERIES[i % len(SERIES)],
        "marker": _MARKERS[(i + i // len(SERIES)) % len(_MARKERS)],
        "markersize": 6.5,
    }


def legend(made: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the axes, where it covers nothing."""
    columns = 4 if max(map(len, labels)) < _SHORT else 2
    rows = math.ceil(len(labels) / columns)
    made.set_size_inches(_SIZE_IN[0], _SIZE_IN[1] + _ROW_IN * max(0, rows - 2))
    made.legend(handles, labels, loc="outside lower left", ncols=min(len(handles), columns), frameon=False)


def xy(places: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as matplotlib takes them."""
    return [x for x, _ in places], [y for _, y in places]


def from_zero(axes: Axes, which: Which, values: Sequence[float]) -> None:
    """An axis that shows all of them, and how large they are."""
    (axes.set_xlim if which == "x" else axes.set_ylim)(0, max([*values, 0]) * 1.1 or 1)


def _set_log(axes: Axes, which: Which, base: int) -> Axis:
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
    return _axis(axes, which)


def _axis(axes: Axes, which: Which) -> Axis:
    return axes.xaxis if which == "x" else axes.yaxis


def logarithmic(axes: Axes, which: Which, values: Sequence[float]) -> None:
    """If they are far apart, else from zero."""
    from matplotlib.ticker import LogLocator, NullLocator

    there = [value for value in values if value > 0]
    if not there or max(there) < _WIDE_RANGE * min(there):
        from_zero(axes, which, values)
        return
    axis = _set_log(axes, which, 10)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def chosen(axes: Axes, which: Which, values: Sequence[float]) -> None:
    """With a tick at each value, for somebody has chosen them."""
    from matplotlib.ticker import NullLocator

    there = sorted({*values})
    if there[-1] >= _WIDE_RANGE * there[0]:
        _set_log(axes, which, 2)
    else:
        from_zero(axes, which, there)
    axis = _axis(axes, which)
    axis.set_ticks(there, _words(there, [*axis.get_transform().transform(there)]))
    axis.set_minor_locator(NullLocator())


def _words(values: Sequence[float], places: Sequence[float]) -> list[str]:
    """Of ticks; none where it would stand in the one before.

    :param places: along the axis, rising.
    """
    gap = _TICK_SHARE * (places[-1] - places[0])
    words, last = [], -math.inf
    for value, at in zip(values, places, strict=True):
        is_free = at - last >= gap
        words.append(f"{value:g}" if is_free else "")
        last = at if is_free else last
    return words


def target(axes: Axes, value: float | None, words: str) -> None:
    """A line that has a name, beside the axes."""
    if value is None:
        return
    low, high = axes.get_ylim()
    axes.axhline(value, color=QUIET, linewidth=1, linestyle=":")
    axes.set_ylim(low, max(high, value * 1.1))
    axes.annotate(words, (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=QUIET)


def saved(made: Figure) -> tuple[bytes, bytes, bytes]:
    """:returns: PNG, SVG, and SVG for a dark ground."""
    svg = _saved(made, "svg", metadata={"Date": None})
    made.set_layout_engine("none")  # it was found
    dark = svg.decode()
    for light_colour, dark_colour in _DARK.items():
        dark = dark.replace(light_colour, dark_colour)
    return _saved(made, "png", dpi=_DPI), svg, dark.encode()


def _saved(made: Figure, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    made.savefig(out, format=form, **options)
    return out.getvalue()
