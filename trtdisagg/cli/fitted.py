"""Tables that fit the terminal: columns that can be spared are left out, since figures that are cut off say nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rich.console import Console
from rich.table import Table

_ANY_WIDTH = 10_000


def fitted(make: Callable[[Collection[str]], Table], spare: Sequence[str], width: int) -> Table:
    """
    :param make: the table without these columns.
    :param spare: names of columns that may be left out, the first first.
    :param width: of the terminal, in letters.
    :returns: the widest that fits, or the narrowest.
    """
    console = Console(width=_ANY_WIDTH)
    tables = (make(spare[:num]) for num in range(len(spare) + 1))
    table = make(spare)
    return next((each for each in tables if console.measure(each).maximum <= width), table)
