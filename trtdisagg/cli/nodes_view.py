"""Which server would be on which of some nodes, as a table and as JSON: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.cli.values import ROLE_STYLES
from trtdisagg.supervisor.slots import Slot


def nodes_view(servers: Sequence[Slot], homes: Mapping[str, Sequence[str]]) -> RenderableType:
    """
    :param homes: the node of each rank, by server; others are routed to.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("name", "role", "ranks", "on"):
        table.add_column(heading, overflow="fold")
    for slot in servers:
        home = homes.get(slot.name, ())
        on = home_words(home) if home else f"{slot.url} (runs already)"
        table.add_row(Text(slot.name, ROLE_STYLES[slot.role]), slot.role, str(len(home) or "-"), on)
    return table


def nodes_report(homes: Mapping[str, Sequence[str]]) -> str:
    return msgspec.json.format(msgspec.json.encode({"nodes": homes}), indent=2).decode()


def home_words(home: Sequence[str]) -> str:
    """`node01`, or of ranks on several `node01 (8), node02 (4)`."""
    counts = Counter(home)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{name} ({n})" for name, n in counts.items())
