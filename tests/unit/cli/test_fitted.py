"""Tables on narrow terminals."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from rich.table import Table

from trtdisagg.cli.fitted import fitted


def table(spared: Collection[str]) -> Table:
    made = Table(box=None, pad_edge=False)
    for name in ("a", "bb", "cc"):
        if name not in spared:
            made.add_column(name)
    made.add_row(*["12345"] * len(made.columns))
    return made


@pytest.mark.parametrize(
    ("width", "names"),
    [(19, ["a", "bb", "cc"]), (18, ["a", "bb"]), (12, ["a", "bb"]), (11, ["a"]), (3, ["a"])],
)
def test_what_does_not_fit_is_left_out_whole(width: int, names: list[str]) -> None:
    assert [column.header for column in fitted(table, ("cc", "bb"), width).columns] == names
