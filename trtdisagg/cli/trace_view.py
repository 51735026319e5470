"""Requests as pictures: one as bars on a time axis, many as a table. Pure functions of what the proxy told.

Who reads this looks at a terminal: what clients and servers wrote is shown without control characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.cli.values import ROLE_STYLES, latency, name_style
from trtdisagg.protocol.trace import ServerTimes, Trace, TracedLeg

_LABEL_WIDTH = 20
_TIME_WIDTH = 9
_MIN_BAR_WIDTH = 20
_MAX_TICKS = 6
_LEAST_MS = 0.001
"""Of an axis."""
_PART_STYLES = {"transfer": "yellow", "waiting": "dim"}


class Row(NamedTuple):
    """One line: a span of time, or, where it has no length, a moment."""

    label: str
    begun_ms: float
    ended_ms: float
    style: str
    note: str = ""
    is_moment: bool = False
    depth: int = 0


def trace_view(trace: Trace, width: int) -> RenderableType:
    """One request from its arrival to its end."""
    rows = list(timeline(trace))
    end_ms = max(_LEAST_MS, *(row.ended_ms for row in rows))
    bar_width = max(_MIN_BAR_WIDTH, width - _LABEL_WIDTH - _TIME_WIDTH - 2)
    lines = [line for row in rows for line in _lines(row, end_ms, bar_width)]
    return Group(_headline(trace), _axis(end_ms, bar_width), *lines)


def traces_view(traces: Sequence[Trace]) -> RenderableType:
    """Many, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("request", "at", "model", "status", "path", "servers"):
        table.add_column(name, overflow="fold")
    for name in ("queued", "first", "total", "events"):
        table.add_column(name, justify="right")
    for trace in traces:
        servers = " > ".join(leg.server for leg in trace.legs)
        times = [latency(ms) for ms in (trace.chosen_ms, trace.first_token_ms, trace.ended_ms)]
        at = f"{datetime.fromtimestamp(trace.arrived):%H:%M:%S}"
        words = [trace.request_id, at, trace.model, _status(trace), trace.path, servers]
        plain = (Text(_printable(word)) for word in words)  # a string would be read as rich's markup
        table.add_row(*plain, *times, str(trace.num_events or ""))
    return table


# --- what happened ----------------------------------------------------------------------------------------------------


def timeline(trace: Trace) -> Iterator[Row]:
    """The lines of a request, in the order in which things began."""
    ended_ms = trace.ended_ms if trace.ended_ms is not None else _last_ms(trace)
    chosen_ms = ended_ms if trace.chosen_ms is None else trace.chosen_ms
    yield Row("queued", 0.0, chosen_ms, "cyan", "" if trace.chosen_ms is not None else "no server was chosen")
    said_first = trace.first_token_ms is None
    for number, leg in enumerate(trace.legs):
        if not said_first and leg.begun_ms >= (trace.first_token_ms or 0.0):
            yield from _first_token(trace)
            said_first = True
        yield from _of_leg(leg, ended_ms, is_again=any(before.kind == leg.kind for before in trace.legs[:number]))
    if not said_first:
        yield from _first_token(trace)
    if trace.ended_ms is not None:
        yield Row("done", ended_ms, ended_ms, "red" if trace.error else "green", trace.error, is_moment=True)


def _first_token(trace: Trace) -> Iterator[Row]:
    if trace.first_token_ms is not None:
        yield Row("first token", trace.first_token_ms, trace.first_token_ms, "green", is_moment=True)


def _of_leg(leg: TracedLeg, end_ms: float, *, is_again: bool) -> Iterator[Row]:
    is_well = leg.outcome in ("done", "running")
    notes = [leg.why or leg.outcome] if not is_well else []
    if leg.num_replayed_tokens:
        notes.append(f"went on here behind {leg.num_replayed_tokens} tokens")
    elif is_again:
        notes.append("asked again here")
    style = ROLE_STYLES[leg.kind] if is_well else "red"
    leg_end_ms = end_ms if leg.ended_ms is None else leg.ended_ms
    yield Row(leg.server, leg.begun_ms, leg_end_ms, style, ", ".join(notes))
    if leg.on_server is not None:
        yield from _on_server(leg, leg.on_server, style, leg_end_ms)


def _on_server(leg: TracedLeg, times: ServerTimes, style: str, end_ms: float) -> Iterator[Row]:
    """What its server did with it: fetched KV, had it wait, computed the prompt, then token after token."""
    ready_ms = times.arrived_ms
    if times.transfer_begun_ms is not None and times.transfer_ended_ms is not None:
        seconds = (times.transfer_ended_ms - times.transfer_begun_ms) / 1e3
        speed = f", {times.transfer_bytes / seconds / 1e9:.1f} GB/s" if seconds > 0 else ""
        note = f"{times.transfer_bytes / 2**20:.1f} MiB{speed}"
        yield _part("transfer", times.transfer_begun_ms, times.transfer_ended_ms, style, note)
        ready_ms = times.transfer_ended_ms
    if times.scheduled_ms is None:
        yield _part("waiting", ready_ms, end_ms, style)
        return
    yield _part("waiting", ready_ms, times.scheduled_ms, style)
    if times.first_token_ms is not None:
        has_kv = leg.kind == "generation" and times.transfer_begun_ms is not None
        yield _part("first step" if has_kv else "prompt", times.scheduled_ms, times.first_token_ms, style)
        if times.last_token_ms is not None and times.last_token_ms > times.first_token_ms:
            yield _part("tokens", times.first_token_ms, times.last_token_ms, style)


def _part(label: str, begun_ms: float, ended_ms: float, style: str, note: str = "") -> Row:
    return Row(label, begun_ms, max(begun_ms, ended_ms), _PART_STYLES.get(label, style), note, depth=1)


def _last_ms(trace: Trace) -> float:
    """Of a request that runs still: the last that is known of it."""
    known = [trace.chosen_ms, trace.first_token_ms]
    for leg in trace.legs:
        known += [leg.begun_ms, leg.first_byte_ms, leg.ended_ms]
        known += [leg.on_server.last_token_ms, leg.on_server.scheduled_ms] if leg.on_server else []
    return max((ms for ms in known if ms is not None), default=0.0)


# --- how it looks -----------------------------------------------------------------------------------------------------


def _headline(trace: Trace) -> Text:
    at = f"{datetime.fromtimestamp(trace.arrived):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    status = "red" if trace.error or trace.status >= 400 else "yellow" if not trace.status else "green"
    line = Text.assemble((trace.request_id, "bold"), "  ", (_status(trace), status), f"  {at}")
    counted = {"retries": trace.num_retries, "migrations": trace.num_migrations}
    words = [trace.route, _printable(trace.model), trace.path, trace.client and f"client {trace.client}"]
    words.append(f"{trace.num_events} events" if trace.is_stream else "no stream")
    words += [f"{name} {number}" for name, number in counted.items() if number]
    return line.append("\n" + ", ".join(word for word in words if word), "dim")


def _status(trace: Trace) -> str:
    words = str(trace.status) if trace.status else "running"
    return f"{words} {trace.error}" if trace.error else words


def _axis(end_ms: float, width: int) -> Text:
    """`0      100ms      200ms`, each above its place."""
    step_ms = _nice(end_ms / _MAX_TICKS)
    line = ""
    for number in range(math.floor(end_ms / step_ms) + 1):
        at = round(number * step_ms / end_ms * (width - 1))
        words = _tick(number * step_ms, step_ms)
        if at >= len(line) + bool(line) and at + len(words) <= width:
            line = line.ljust(at) + words
    return Text(" " * _LABEL_WIDTH + line, "dim")


def _nice(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least)


def _tick(ms: float, step_ms: float) -> str:
    if not ms:
        return "0"
    if step_ms >= 1000:
        return f"{ms / 1000:g}s"
    return f"{ms:g}ms" if step_ms >= 1 else f"{ms * 1000:g}us"


def _lines(row: Row, end_ms: float, width: int) -> Iterator[Text]:
    """The row, and its note below it."""
    label = f"{'  ' * row.depth}{row.label}"[: _LABEL_WIDTH - 1].ljust(_LABEL_WIDTH)
    begun, ended = (min(width - 1, round(ms / end_ms * (width - 1))) for ms in (max(row.begun_ms, 0.0), row.ended_ms))
    bar = "▼" if row.is_moment else "█" * (ended - begun) or "▏"
    told = row.ended_ms if row.is_moment else row.ended_ms - row.begun_ms
    label_style = "" if row.depth else name_style(row.label) or ""
    yield Text.assemble(
        (label, label_style), " " * begun, (bar, row.style), " " * (width - begun - len(bar)), f"{latency(told):>8}"
    )
    if row.note:
        yield Text(f"{' ' * _LABEL_WIDTH}{_printable(row.note)}", "red" if row.style == "red" else "dim")


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in words)
