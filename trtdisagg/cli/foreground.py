"""An agent in the foreground: the live table on a terminal, otherwise one line for everything that happens."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import click
from rich.live import Live

from trtdisagg.cli.background import LOG_NAME
from trtdisagg.cli.stdout import stdout_by, write_stdout
from trtdisagg.cli.terminal import console, wants_colour
from trtdisagg.cli.values import ROLE_STYLES
from trtdisagg.cli.views import cluster_view
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.aside import Aside
from trtdisagg.supervisor.logfile import LogFile
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.run import run_agent
from trtdisagg.supervisor.wish import Wish

_REDRAW_S = 0.25
_REST_PER_DRAW = 30
"""Drawing is done by the process that supervises: it may take a thirtieth of its time (64 servers: 30 ms a drawing)."""
_AGENT = "agent"
"""Whose lines are the supervisor's own."""
_QUESTION = "What is the capital of France?"


def run_with_table(
    plan: Plan, place: Place, wish: Wish | None = None, *, on_ready: Callable[[str], None] = lambda _: None
) -> int:
    """Run an agent under a live table, which a terminal that is held (Ctrl-S) keeps from nothing else.

    :param on_ready: called with the address for clients when the cluster can serve.
    :returns: its exit code; raises as `run_agent` does.
    """
    with (
        Aside(lambda _, text: write_stdout(text)) as aside,
        Live(
            console=console(stdout_by(functools.partial(aside.put, ""))),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live,
    ):
        show = _Screen(plan, live).show
        return anyio.run(functools.partial(run_agent, plan, place, wish=wish, on_status=show, on_ready=on_ready))


def run_with_lines(
    plan: Plan,
    place: Place,
    wish: Wish | None = None,
    *,
    on_ready: Callable[[str], None] = lambda _: None,
    of_children: bool = True,
) -> int:
    """Run an agent and print what happens.

    :param on_ready: called with the address for clients when the cluster can serve.
    :param of_children: also what the children print, which their logs have anyway; False: in the background, where
        what happens goes to a log file, too.
    :returns: its exit code; raises as `run_agent` does.
    """
    with lines_of(plan, place, on_ready=on_ready, of_children=of_children) as told:
        return anyio.run(functools.partial(run_agent, plan, place, wish=wish, **told))


@contextlib.contextmanager
def lines_of(
    plan: Plan, place: Place, *, on_ready: Callable[[str], None], of_children: bool = True
) -> Iterator[Mapping[str, Any]]:
    """What `run_agent` calls with what happens, so that it is printed; see `run_with_lines`."""

    def ready(url: str) -> None:
        lines.event(hint(plan, url))
        on_ready(url)

    with Lines(plan, of_children=of_children, log_file=None if of_children else place.log_file(LOG_NAME)) as lines:
        yield {"on_ready": ready, "on_event": lines.event, "on_line": lines.child}


class _Screen:
    """Redraws the screen, but not with every beat."""

    def __init__(self, plan: Plan, live: Live) -> None:
        self._live = live
        self._plan = plan
        self._hint = self._hint_once()
        self._drawn_at = 0.0
        self._drawn = ""
        self._draw_s = 0.0
        self._width = live.console.width

    def show(self, status: ClusterStatus) -> None:
        self._hint(status)
        states = " ".join(server.state for server in status.servers)
        now = time.monotonic()
        is_news = states != self._drawn and status.state != "starting"  # many start at once, and there is more to come
        if is_news or now > self._drawn_at + max(_REDRAW_S, _REST_PER_DRAW * self._draw_s):
            self._drawn_at, self._drawn = now, states
            self._draw(status)
            self._draw_s = time.monotonic() - now

    def _draw(self, status: ClusterStatus) -> None:
        width, height = self._live.console.size
        if width < self._width:  # the terminal has broken the lines that are there, so nobody knows how many they are
            self._live.console.clear()
            self._hint = self._hint_once()
            self._hint(status)
        self._width = width
        self._live.update(cluster_view(status, width, height - 1), refresh=True)

    def _hint_once(self) -> Callable[[ClusterStatus], None]:
        return _hint_once(self._plan, lambda text: self._live.console.print(text, highlight=False, soft_wrap=True))


class Lines:
    """`12:03:04.123 context-0 | text`, or without children `12:03:04.123 text`. Nobody waits until they are written.

    :param log_file: where to, instead of stdout; put aside when it is full.
    """

    def __init__(self, plan: Plan, *, of_children: bool, log_file: Path | None = None) -> None:
        self._of_children = of_children
        self._width = max(len(name) for name in [_AGENT, *(child.name for child in plan.children)])
        self._colours = {child.name: ROLE_STYLES[child.role] for child in plan.children}
        self._log = LogFile(log_file) if log_file else None
        self._wants_colour = wants_colour()
        self._aside = Aside(self._write)

    def __enter__(self) -> Lines:
        self._aside.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._aside.__exit__(*error)
        if self._log is not None and self._aside.is_over:
            with contextlib.suppress(OSError):  # there is nobody left to tell
                self._log.close()

    def event(self, text: str) -> None:
        for line in text.splitlines():
            self._print(self._prefix(_AGENT) + line)

    def child(self, name: str, line: str) -> None:
        if self._of_children:
            self._print(self._prefix(name) + line)

    def _prefix(self, name: str) -> str:
        if not self._of_children:
            return ""
        return click.style(f"{name:<{self._width}}", fg=self._colours.get(name), bold=name == _AGENT) + " | "

    def _print(self, line: str) -> None:
        line = f"{datetime.now():%H:%M:%S.%f}"[:-3] + f" {line}\n"
        self._aside.put("", (line if self._wants_colour else click.unstyle(line)).encode(errors="replace"))

    def _write(self, _: str, line: bytes) -> None:
        if self._log is None:
            write_stdout(line)
            return
        with contextlib.suppress(OSError):  # a full disk: there is nobody left to tell
            self._log.write(line)


def _hint_once(plan: Plan, say: Callable[[str], None]) -> Callable[[ClusterStatus], None]:
    """Says how to ask the cluster, once it can answer."""
    told = False

    def on_status(status: ClusterStatus) -> None:
        nonlocal told
        if status.state == "ready" and not told:
            told = True
            say(hint(plan, status.url))

    return on_status


def hint(plan: Plan, url: str) -> str:
    """A command to paste."""
    model = next(iter(plan.needs), None)
    if model is None:
        return f"ready: {url}\n  curl {url}/v1/models"
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": _QUESTION}]})
    header = "-H 'Content-Type: application/json'"
    return f"ready: {url}\n  curl {url}/v1/chat/completions {header} \\\n    -d '{body}'"
