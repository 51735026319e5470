"""The live table: a pure function of a cluster's status and the width there is.

Narrow (80 columns) and wide show the same facts; narrow leaves out what a server's name already says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.protocol.control import ClusterStatus, ServerStatus

WIDE = 110
"""From here on every column is shown, at any length."""
_MAX_PLACE_CHARS = 12
"""Of a list of cores in a narrow table."""
_NUM_EVENTS = 5
_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "loading": "yellow",
    "degraded": "yellow",
    "stalled": "red",
    "backoff": "red",
    "failed": "bold red",
    "draining": "cyan",
    "stopping": "cyan",
    "stopped": "dim",
}
ROLE_STYLES = {"context": "magenta", "generation": "blue", "both": "blue", "proxy": "cyan"}

_Cell = Callable[[ServerStatus], str | Text]


def cluster_view(status: ClusterStatus, width: int) -> RenderableType:
    """The whole screen: a line on the cluster, a row for each server, why some are not well, the last events."""
    return Group(_header(status), _table(status.servers, width), *_reasons(status.servers), *_events(status.events))


def to_svg(view: RenderableType, title: str, width: int = WIDE) -> str:
    """A picture of a view."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(view)
    # Without the fonts that rich would have fetched from elsewhere: the picture stands alone.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)


def _header(status: ClusterStatus) -> Text:
    state = (status.state, _STYLES[status.state])
    line = Text.assemble((status.cluster, "bold"), " ", state, f", up {duration(status.up_s)}, {status.url}")
    if status.reason:
        line.append(f"\n{status.reason}", _STYLES[status.state])
    return line


# --- values in few characters ---------------------------------------------------------------------------------------


def place_words(gpus: list[str], cores: list[int]) -> str:
    """`gpu 0,1`, `cpu 0-3,8`, or `-` for a process that is not pinned."""
    if gpus:
        return f"gpu {','.join(gpus)}"
    return f"cpu {ranges(cores)}" if cores else "-"


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def duration(seconds: float) -> str:
    """`7s`, `3m`, `5h`, `12d`: the largest unit that is not zero."""
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / divisor)}{unit}"
    return f"{int(seconds / 86400)}d"


def rate(per_s: float) -> str:
    """Four characters at most: `0`, `3.4`, `340`, `3.4k`, `34k`."""
    if per_s < 0.05:
        return "0"
    if per_s < 9.95:
        return f"{per_s:.1f}"
    if per_s < 999.5:
        return f"{per_s:.0f}"
    return f"{per_s / 1000:.1f}k" if per_s < 9950 else f"{per_s / 1000:.0f}k"


def kv_use(server: ServerStatus) -> str:
    """Share of the KV blocks in use."""
    stats = server.stats
    return f"{100 * stats.num_used_blocks / stats.num_blocks:.0f}%" if stats.num_blocks else "-"


# --- servers --------------------------------------------------------------------------------------------------------

_COLUMNS: list[tuple[str, bool, _Cell]] = [
    ("name", False, lambda s: Text(s.name, ROLE_STYLES[s.role])),
    ("role", False, lambda s: s.role),
    ("on", False, lambda s: place_words(s.gpus, s.cores)),
    ("pid", True, lambda s: str(s.pid or "-")),
    ("state", False, lambda s: Text(s.state, _STYLES[s.state])),
    ("up", True, lambda s: "-" if s.up_s is None else duration(s.up_s)),
    ("restarts", True, lambda s: str(s.restarts)),
    ("run", True, lambda s: str(s.stats.num_running)),
    ("wait", True, lambda s: str(s.stats.num_waiting)),
    ("KV", True, kv_use),
    ("in/s", True, lambda s: "-" if s.role == "proxy" else rate(s.tokens_in_s)),
    ("out/s", True, lambda s: "-" if s.role == "proxy" else rate(s.tokens_out_s)),
]
"""Heading, whether it is a number, and what stands there."""


def _table(servers: list[ServerStatus], width: int) -> Table:
    wide = width >= WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if wide else 0, 0, 0), show_edge=False)
    named_by_role = all(s.role in (s.name, s.name.rpartition("-")[0]) for s in servers)
    columns = [c for c in _COLUMNS if wide or c[0] != "role" or not named_by_role]
    for heading, is_number, _ in columns:
        max_width = _MAX_PLACE_CHARS if heading == "on" and not wide else None
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True, max_width=max_width)
    for server in servers:
        table.add_row(*(cell(server) for _, _, cell in columns))
    return table


def _reasons(servers: Iterable[ServerStatus]) -> list[Text]:
    """A line for each server of which there is more to say than its state; of one that was stopped there is not."""
    return [
        Text.assemble((s.name, ROLE_STYLES[s.role]), " ", (s.state, _STYLES[s.state]), f": {s.reason}")
        for s in servers
        if s.reason and s.state != "stopped"
    ]


def _events(events: list[str]) -> list[Text]:
    return [Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in ["", *events[-_NUM_EVENTS:]] if events]
