"""The pictures that people compare: throughput of a GPU over that of a user, latency over load, goodput over rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from trtdisagg.bench.sweep import look
from trtdisagg.bench.sweep.over_load import LOADS, goodput, latency, times
from trtdisagg.bench.sweep.results import Results
from trtdisagg.bench.sweep.trade_off import throughput, throughput_alt

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        yield _picture("throughput", throughput_alt(results), throughput(results))
    for kind, words in LOADS.items():
        points = [point for point in results.points if point.kind == kind]
        if not points:
            continue
        alt = f"Median and 99th percentile of the {' and the '.join(times(results, kind).values())} over {words}."
        yield _picture(f"latency-{kind}", alt, latency(results, kind))
        if results.goodput and any(point.figure("request_goodput") is not None for point in points):
            alt = f"Goodput over {words}: requests a second that keep {results.targets}."
            yield _picture(f"goodput-{kind}", alt, goodput(results, kind))


def _picture(name: str, alt: str, made: Figure) -> Picture:
    png, svg, dark_svg = look.saved(made)
    return Picture(name=name, alt=alt, png=png, svg=svg, dark_svg=dark_svg)
