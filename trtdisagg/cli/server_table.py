"""The table of servers: a row for each, in one table where it is wide enough, otherwise in two that share the names.

    who they are      name  (node)  on  pid  state  up  restarts
    what they do      name  run  wait  KV  in/s  out/s  TTFT  TPOT  GB/s  and the last minutes as a sparkline

So nothing is left out on a narrow screen, and no number is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from rich.text import Text

from trtdisagg.cli import values
from trtdisagg.protocol.control import ServerStatus
from trtdisagg.supervisor.server_name import parse_name

_MAX_PLACE_CHARS = 12
"""Of a list of cores: the one thing that may be any length and that no one reads to its end."""
_BAR_CHARS = 5
_MIN_SPARK_CHARS, _MAX_SPARK_CHARS = 8, 30
_WIDE_GAP = 2


class _Column(msgspec.Struct, frozen=True):
    heading: str
    cell: Callable[[ServerStatus], str | Text]
    is_number: bool = False


def _of_server(words: Callable[[ServerStatus], str]) -> Callable[[ServerStatus], str]:
    """A cell that has no meaning for the proxy."""
    return lambda server: "-" if server.role == "proxy" else words(server)


def _place(server: ServerStatus) -> str:
    words = values.place_words(server.gpus, server.cores)
    return words if len(words) <= _MAX_PLACE_CHARS else words[: _MAX_PLACE_CHARS - 1] + "…"


def _kv(server: ServerStatus) -> Text:
    """Share of the KV cache in use, as a bar and a number, and how many tokens it holds."""
    stats = server.stats
    if not stats.num_blocks:
        return Text("-")
    share = stats.num_used_blocks / stats.num_blocks
    of_all = f" of {values.rate(server.kv_tokens)}" if server.kv_tokens else ""
    return Text.assemble(values.bar(share, _BAR_CHARS), f" {100 * share:3.0f}%{of_all}")


_NAME = _Column("name", lambda s: Text(s.name, values.ROLE_STYLES[s.role]))
_ROLE = _Column("role", lambda s: s.role)
_NODE = _Column("node", lambda s: values.node_words(s.nodes))
_RANKS = _Column("ranks", lambda s: values.parallel_words(s.parallel).partition(" = ")[0] if s.parallel else "-")
_WHO = [
    _Column("on", _place),
    _Column("pid", lambda s: str(s.pid or "-"), is_number=True),
    _Column("state", lambda s: Text(s.state, values.STATE_STYLES[s.state])),
    _Column("up", lambda s: "-" if s.up_s is None else values.duration(s.up_s), is_number=True),
    _Column("restarts", lambda s: str(s.restarts), is_number=True),
]
_WHAT = [
    _Column("run", lambda s: str(s.stats.num_running), is_number=True),
    _Column("wait", lambda s: str(s.stats.num_waiting), is_number=True),
    _Column("KV", _kv, is_number=True),
    _Column("in/s", _of_server(lambda s: values.rate(s.tokens_in_s)), is_number=True),
    _Column("out/s", _of_server(lambda s: values.rate(s.tokens_out_s)), is_number=True),
    _Column("TTFT", lambda s: values.latency(s.ttft_p95_ms), is_number=True),
    _Column("TPOT", lambda s: values.latency(s.tpot_p95_ms), is_number=True),
    _Column("GB/s", lambda s: f"{s.transfer_gb_s:.1f}" if s.transfer_gb_s >= 0.05 else "-", is_number=True),
]


def server_tables(servers: Sequence[ServerStatus], width: int) -> list[list[Text]]:
    """The lines of one table, or of two where one does not fit: a heading, a rule, a row for each server."""
    named_by_role = all(s.role in (s.name, parse_name(s.name).role) for s in servers)
    on_several_nodes = any(s.nodes for s in servers)
    are_divided = any(s.parallel and s.parallel.num_ranks > 1 for s in servers)
    name = _filled(_NAME, servers)
    more = [
        column
        for column, is_wanted in ((_ROLE, not named_by_role), (_RANKS, are_divided), (_NODE, on_several_nodes))
        if is_wanted
    ]
    who = [name, *(_filled(column, servers) for column in more + _WHO)]
    what = [_filled(column, servers) for column in _WHAT]
    for gap in (_WIDE_GAP, 1):
        if _width([*who, *what], gap) + gap + _MIN_SPARK_CHARS <= width:
            return [_lines(_with_sparkline([*who, *what], servers, width, gap), gap)]
    return [_lines(who, 1), _lines(_with_sparkline([name, *what], servers, width, 1), 1)]


class _Filled(msgspec.Struct, frozen=True):
    """A column with its heading and cells, all as wide as the widest."""

    cells: list[Text]
    width: int


def _filled(column: _Column, servers: Sequence[ServerStatus]) -> _Filled:
    cells = [Text(column.heading, "bold"), *(Text.assemble(column.cell(server)) for server in servers)]
    width = max(cell.cell_len for cell in cells)
    for cell in cells:
        cell.align("right" if column.is_number else "left", width)
    return _Filled(cells, width)


def _with_sparkline(columns: list[_Filled], servers: Sequence[ServerStatus], width: int, gap: int) -> list[_Filled]:
    """Fills what room is left."""
    room = min(_MAX_SPARK_CHARS, width - _width(columns, gap) - gap)
    if room < _MIN_SPARK_CHARS or not any(s.history for s in servers):
        return columns
    work = _Column("work", lambda s: Text(values.sparkline(s.history, room), values.ROLE_STYLES[s.role]))
    return [*columns, _filled(work, servers)]


def _width(columns: list[_Filled], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def _lines(columns: list[_Filled], gap: int) -> list[Text]:
    # By hand: a table of rich measures and wraps every cell anew, 0.2 s for 64 servers.
    blank = Text(" " * gap)
    heading, *rows = [blank.join(column.cells[i] for column in columns) for i in range(len(columns[0].cells))]
    lines = [heading, Text("─" * _width(columns, gap), "dim"), *rows]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines
