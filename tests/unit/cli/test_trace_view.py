"""Pictures of requests: what is drawn where."""

from __future__ import annotations

import io
from typing import Any

import msgspec
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from trtdisagg.cli.main import cli
from trtdisagg.cli.trace_view import timeline, trace_view, traces_view
from trtdisagg.protocol.trace import ServerTimes, Trace, TracedLeg

CONTEXT = TracedLeg(
    kind="context",
    server="context-0",
    url="h:1",
    begun_ms=10,
    first_byte_ms=50,
    ended_ms=50,
    outcome="done",
    on_server=ServerTimes(arrived_ms=11, scheduled_ms=20, first_token_ms=48, last_token_ms=48),
)
GENERATION = TracedLeg(
    kind="generation",
    server="generation-0",
    url="h:2",
    begun_ms=50,
    first_byte_ms=70,
    ended_ms=100,
    outcome="done",
    on_server=ServerTimes(
        arrived_ms=51,
        transfer_begun_ms=52,
        transfer_ended_ms=62,
        transfer_bytes=10 << 20,
        scheduled_ms=65,
        first_token_ms=70,
        last_token_ms=99,
    ),
)
TRACE = Trace(
    request_id="abc",
    arrived=1e9,
    model="m",
    route="/v1/completions",
    path="both",
    status=200,
    is_stream=True,
    num_events=12,
    chosen_ms=10,
    first_token_ms=50,
    ended_ms=100,
    legs=[CONTEXT, GENERATION],
)


def trace(**more: Any) -> Trace:
    return msgspec.structs.replace(TRACE, **more)


def drawn(view: RenderableType, width: int = 109) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_request_over_two_servers() -> None:
    labels = [(row.label, row.begun_ms, row.ended_ms) for row in timeline(TRACE)]
    assert labels == [
        ("queued", 0, 10),
        ("context-0", 10, 50),
        ("waiting", 11, 20),
        ("prompt", 20, 48),
        ("first token", 50, 50),
        ("generation-0", 50, 100),
        ("transfer", 52, 62),
        ("waiting", 62, 65),
        ("first step", 65, 70),
        ("tokens", 70, 99),
        ("done", 100, 100),
    ]


def test_bars_stand_below_their_times() -> None:
    lines = drawn(trace_view(TRACE, 109))
    assert lines[0].startswith("abc  200  ")
    assert "both" in lines[1]
    assert lines[2][20:].split() == ["0", "20ms", "40ms", "60ms", "80ms"]
    assert lines[2].index("40ms") - 20 == round(40 / 100 * 77)
    by_label = {line[:20].strip(): line for line in lines[3:]}
    generation = by_label["generation-0"]
    assert (generation.index("█") - 20, generation.rindex("█") - 20) == (round(0.5 * 77), 76)
    assert generation.endswith("50ms")
    assert by_label["first token"].index("▼") - 20 == round(0.5 * 77)
    assert by_label["transfer"].endswith("10ms")
    assert "10.0 MiB, 1.0 GB/s" in "\n".join(lines)


def test_what_went_wrong_is_said() -> None:
    broken = msgspec.structs.replace(
        GENERATION, outcome="failed", why="generation-0: gone", ended_ms=80, on_server=None
    )
    successor = TracedLeg(
        kind="generation",
        server="generation-1",
        url="h:3",
        begun_ms=80,
        first_byte_ms=90,
        ended_ms=100,
        outcome="done",
        num_replayed_tokens=7,
    )
    text = "\n".join(drawn(trace_view(trace(legs=[CONTEXT, broken, successor], num_migrations=1), 109)))
    assert "generation-0: gone" in text
    assert "went on here behind 7 tokens" in text
    assert "migrations 1" in text


def test_a_request_that_was_refused_has_no_servers() -> None:
    refused = trace(status=429, error="queue_full", path="", legs=[], chosen_ms=None, first_token_ms=None, ended_ms=0.2)
    lines = drawn(trace_view(refused, 80))
    assert lines[0].startswith("abc  429 queue_full")
    assert "no server was chosen" in "\n".join(lines)


def test_a_request_that_runs_is_drawn_as_far_as_it_is_known() -> None:
    leg = TracedLeg(kind="context", server="context-0", url="h:1", begun_ms=10, outcome="running")
    running = trace(status=0, ended_ms=None, first_token_ms=None, legs=[leg])
    lines = drawn(trace_view(running, 80))
    assert lines[0].startswith("abc  running")
    assert not any(line.startswith("done") for line in lines)


def test_many_are_a_table() -> None:
    lines = drawn(traces_view([TRACE, trace(request_id="other", num_events=0)]), 160)
    assert [line.split()[0] for line in lines] == ["request", "abc", "other"]
    assert "context-0 > generation-0" in lines[1]
    assert lines[1].split()[-4:] == ["10ms", "50ms", "100ms", "12"]


def test_a_terminal_is_not_at_the_mercy_of_clients() -> None:
    evil = trace(request_id="[/x]", model="\x1b[2J[red]evil", legs=[])
    for view in (trace_view(evil, 80), traces_view([evil])):
        picture = "\n".join(drawn(view))
        assert "\x1b" not in picture
        assert "[/x]" in picture
        assert "[red]" in picture


_times = st.one_of(st.none(), st.floats(0, 1e7))


@given(
    chosen=_times,
    first=_times,
    ended=_times,
    begun=st.floats(0, 1e7),
    leg_ended=_times,
    width=st.integers(1, 200),
)
def test_any_times_can_be_drawn(
    chosen: float | None, first: float | None, ended: float | None, begun: float, leg_ended: float | None, width: int
) -> None:
    times = ServerTimes(arrived_ms=begun, scheduled_ms=chosen, first_token_ms=first, last_token_ms=leg_ended)
    leg = TracedLeg(
        kind="context",
        server="context-0",
        url="h:1",
        begun_ms=begun,
        ended_ms=leg_ended,
        outcome="done",
        on_server=times,
    )
    drawn(trace_view(trace(chosen_ms=chosen, first_token_ms=first, ended_ms=ended, legs=[leg]), width), 300)


def test_an_id_and_slowest_do_not_go_together() -> None:
    result = CliRunner().invoke(cli, ["trace", "abc", "--slowest"])
    assert result.exit_code == 2
    assert "leave the id out" in result.stderr
