"""`trtdisagg logs`: the files that the agent writes its children's lines to, also when nothing runs any more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import click
import msgspec

from trtdisagg.cli.find import find_cluster
from trtdisagg.cli.log_lines import Line, Tail
from trtdisagg.cli.names import complete_log
from trtdisagg.cli.terminal import wants_colour
from trtdisagg.cli.values import name_style
from trtdisagg.errors import ConfigError, NotRunningError
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.rundir import running_pid
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.state import PROXY

_AGENT = "agent"
_LOOK_AGAIN_S = 0.2
_NUM_LINES = 100
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_OWN_TIME = re.compile(r"\d\d:\d\d:\d\d\.\d{3} ")
"""What the supervisor's own lines begin with."""

_Show = Callable[[str, Line], None]


def _unix_time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """`10m` ago, or a time, as Unix seconds."""
    if value is None:
        return None
    if ago := re.fullmatch(r"(\d+)([smhd])", value):
        return time.time() - timedelta(**{_UNITS[ago[2]]: int(ago[1])}).total_seconds()
    try:
        today = f"{datetime.now():%Y-%m-%d}T" if re.match(r"\d\d:\d\d", value) else ""
        return datetime.fromisoformat(today + value).timestamp()
    except ValueError:
        expected = "an age as 30s, 10m, 2h, 1d nor a time as 12:03 or 2026-01-31T12:03"
        raise click.BadParameter(f"{value!r} is neither {expected}") from None


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE|CLUSTER] [NAME]...", shell_complete=complete_log)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the cluster is down.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Begin with the last so many of each.  [default: 100]")
@click.option("--since", callback=_unix_time, metavar="10m|TIME", help="Begin with what came since then.")
@click.option("--json", "as_json", is_flag=True, help="An object a line: time (Unix seconds), server, text.")
@click.option("--no-prefix", is_flag=True, help="Lines as they were written, without time and name.")
def command(
    *, words: tuple[str, ...], follow: bool, lines: int | None, since: float | None, as_json: bool, no_prefix: bool
) -> None:
    """Show what servers and proxy wrote.

    NAME is that of a server, `proxy` (all its processes) or one of them, or `agent` for the supervisor itself; without
    one, all are shown, in the order in which the lines came.

    The cluster is that of FILE, the one called CLUSTER, that of cluster.yaml in this directory, or the only one that
    runs.
    """
    if as_json and no_prefix:
        raise click.UsageError("--json has no prefix that --no-prefix could leave out")
    clusters = [word for word in words if _is_cluster(word)]
    if len(clusters) > 1:
        raise ConfigError(f"one cluster, please, not {' and '.join(clusters)}")
    place = find_cluster(clusters[0] if clusters else None)
    num_lines = _NUM_LINES if lines is None and since is None else lines
    with _Reader(place.log_dir, {word for word in words if word not in clusters}) as reader:
        show = _as_json if as_json else _as_it_is if no_prefix else _Prefixed(reader.names())
        reader.show_past(show, num_lines, since)
        while follow:
            is_up = running_pid(place) is not None
            reader.show_new(show)
            if not is_up:
                return
            time.sleep(_LOOK_AGAIN_S)


def _is_cluster(word: str) -> bool:
    """Its file, or the name of one that runs; what every cluster has is never taken for a name."""
    return Path(word).suffix in (".yaml", ".yml") or (word not in (PROXY, _AGENT) and bool(rundir.find_by_name(word)))


class _Reader:
    """Shows the lines of several files as they grow, and of those that come into being.

    :param wanted: whose logs; none: everybody's.
    :raises NotRunningError: one of `wanted` has no log.
    """

    def __init__(self, log_dir: Path, wanted: set[str]) -> None:
        self._log_dir = log_dir
        self._wanted = wanted
        self._tails: dict[str, Tail] = {}
        there = {path.stem for path in log_dir.glob("*.log")}
        if PROXY in wanted and (processes := {name for name in there if parse_name(name).role == PROXY}):
            wanted = self._wanted = wanted - {PROXY} | processes
        if unknown := wanted - there:
            raise NotRunningError(f"no log of {_list(unknown)}; there are: {_list(there)}")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for tail in self._tails.values():
            tail.close()

    def names(self) -> set[str]:
        return self._wanted or {path.stem for path in self._log_dir.glob("*.log")}

    def show_past(self, show: _Show, num_lines: int | None, since: float | None) -> None:
        self._show(show, lambda tail: tail.past(num_lines, since))

    def show_new(self, show: _Show) -> None:
        self._show(show, Tail.read)

    def _show(self, show: _Show, read: Callable[[Tail], list[Line]]) -> None:
        found: list[tuple[str, Line]] = []
        for name in sorted(self.names()):
            tail = self._tails.setdefault(name, Tail(self._log_dir / f"{name}.log"))
            found += [(name, line) for line in read(tail)]
        for name, line in sorted(found, key=lambda pair: pair[1].at):
            show(name, line)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# --- how a line is shown --------------------------------------------------------------------------------------------


class _Prefixed:
    """`12:03:04.123 generation-0 | text`, with the date where it is not today's."""

    def __init__(self, names: Iterable[str]) -> None:
        self._width = max(map(len, names), default=0)
        self._colour = wants_colour()
        self._today = datetime.now().date()

    def __call__(self, name: str, line: Line) -> None:
        # The supervisor's own lines have their time in them; those of old releases have it nowhere else.
        text = _OWN_TIME.sub("", line.text, count=1) if name == _AGENT and line.at else line.text
        self._width = max(self._width, len(name))
        prefix = click.style(f"{name:<{self._width}}", fg=name_style(name), bold=name == _AGENT)
        click.echo(f"{self._time(line.at)}{prefix} | {text}", color=self._colour)

    def _time(self, at: float) -> str:
        if not at:
            return ""
        when = datetime.fromtimestamp(at)
        date = "" if when.date() == self._today else f"{when:%Y-%m-%d} "
        return date + f"{when:%H:%M:%S.%f}"[:-3] + " "


def _as_it_is(_name: str, line: Line) -> None:
    click.echo(line.text)


def _as_json(name: str, line: Line) -> None:
    click.echo(msgspec.json.encode({"time": line.at or None, "server": name, "text": line.text}))
