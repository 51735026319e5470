"""The screen at every width and height."""

from __future__ import annotations

import io
import re

import pytest
from helpers.statuses import BUSY
from msgspec.structs import replace
from rich.console import Console

from trtdisagg.cli import views
from trtdisagg.cli.views import cluster_view, to_svg
from trtdisagg.protocol.control import ClusterStatus, Link
from trtdisagg.protocol.parallel import Parallel

PROXY, CONTEXT, *GENERATION = BUSY.servers


def drawn(status: ClusterStatus, width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(cluster_view(status, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


def row(lines: list[str], name: str) -> str:
    """A server's row, of both tables where there are two; without the bar and the sparkline."""
    rows = [re.sub("[▁-▏·]", "", line).split()[1:] for line in lines if re.match(f"{name} +(cpu|gpu|-|[0-9])", line)]
    assert rows, "\n".join(lines)
    return " ".join(word for words in rows for word in words)


@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
def test_every_fact_is_there_and_fits(width: int) -> None:
    lines = drawn(BUSY, width)
    assert max(map(len, lines)) <= width
    assert lines[0] == "prod degraded, up 2h, http://127.0.0.1:8000"
    assert lines[1] == "requests 34/s, 76 running, 3 waiting, 0.2/s failing"
    assert row(lines, "proxy") == "- 1234567 ready 2h 0 76 3 - - - 830ms 43ms -"
    assert row(lines, "context-0") == "gpu 0 1234568 ready 1m 0 12 1024 100% 12k 0 1.2s - -"
    assert row(lines, "generation-10") == "cpu 0-3,8 - backoff - 12 64 7 1% 0 340 - 8.3ms 12.3"
    for line in (
        "generation-10 backoff: killed by SIGKILL",
        "generation-11 draining: 4 requests to finish, cut short in 17 s",
        "looked after elsewhere: generation-20 (10.0.0.2:8003)",
        "autoscale holds: time to first token is below its target, nothing waits",
        "! generation-10 is 2.4 times slower per token than the others: 48 ms, not 20 ms",
    ):
        assert line in lines


@pytest.mark.parametrize(("width", "num_tables"), [(80, 2), (120, 1), (200, 1)])
def test_one_table_where_it_fits(width: int, num_tables: int) -> None:
    lines = drawn(BUSY, width)
    assert sum(line.startswith("name") for line in lines) == num_tables
    assert any("▂▁█" in line for line in lines), "and room for the sparklines"


def test_the_role_is_shown_where_names_do_not_say_it() -> None:
    for width in (80, 200):
        assert "role" not in drawn(BUSY, width)[2].split()
        for name, named_by_role in (("llama.context-3", True), ("a-0", False), ("generation-7", False)):
            renamed = replace(BUSY, servers=[replace(CONTEXT, name=name)])
            assert ("role" in drawn(renamed, width)[1].split()) is not named_by_role


def test_nodes_are_shown_where_there_are_several() -> None:
    assert "node" not in drawn(BUSY, 200)[2].split()
    nodes = {"context-0": ["node02"], "generation-10": ["node01", "node01", "node02", "node03"]}
    spread = replace(BUSY, servers=[replace(s, nodes=nodes.get(s.name, [])) for s in BUSY.servers])
    for width in (80, 200):
        lines = drawn(spread, width)
        assert any("node" in line.split() for line in lines if line.startswith("name"))
        assert any(line.split()[:2] == ["proxy", "-"] for line in lines if line)
        assert any(line.split()[:2] == ["context-0", "node02"] for line in lines if line)
        assert any("node01 +2" in line for line in lines if line.startswith("generation-10"))


def test_a_long_list_of_cores_gives_way() -> None:
    servers = [replace(s, cores=list(range(0, 64, 2)), gpus=[]) for s in BUSY.servers]
    lines = drawn(replace(BUSY, servers=servers), 80)
    assert max(map(len, lines)) <= 80
    assert row(lines, "context-0").endswith("12k 0 1.2s - -"), "numbers are not what gives way"


def test_long_names_leave_the_numbers_whole() -> None:
    servers = [replace(s, name=f"llama-3.1-8b.{s.name}") for s in BUSY.servers]
    lines = drawn(replace(BUSY, servers=servers), 80)
    assert max(map(len, lines)) <= 80
    assert row(lines, "llama-3.1-8b.context-0").endswith("12k 0 1.2s - -")


def test_only_the_last_events_one_line_each() -> None:
    lines = drawn(BUSY, 80)
    assert [line[9:16] for line in lines[-5:]] == [f"event {i}" for i in range(3, 8)]
    assert all(line.endswith("…") for line in lines[-5:])


def test_roles_stand_together() -> None:
    servers = [replace(CONTEXT, name="context-1"), *GENERATION, CONTEXT, PROXY]
    lines = drawn(replace(BUSY, servers=servers), 200)
    names = [line.split()[0] for line in lines[4:9]]
    assert names == ["proxy", "context-1", "context-0", "generation-10", "generation-11"]


# --- height ---------------------------------------------------------------------------------------------------------


def many(count: int) -> ClusterStatus:
    servers = [replace(CONTEXT, name=f"context-{i}") for i in range(count)]
    return replace(BUSY, servers=[PROXY, *servers, *GENERATION])


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("height", [24, 30, 50])
@pytest.mark.parametrize("num_servers", [1, 4, 8, 64])
def test_it_fits_the_height(width: int, height: int, num_servers: int) -> None:
    lines = drawn(many(num_servers), width, height)
    assert len(lines) <= height
    assert row(lines, "generation-10"), "what is not well is never left out"
    assert any(line.startswith("! generation-10") for line in lines)


def test_events_go_before_servers() -> None:
    whole = drawn(many(3), 200)
    lines = drawn(many(3), 200, len(whole) - 2)
    assert len(lines) == len(whole) - 2
    assert lines[:-3] == whole[: len(lines) - 3]


def test_how_many_are_left_out_is_said() -> None:
    lines = drawn(many(64), 200, 30)
    (line,) = [line for line in lines if line.startswith("and ")]
    shown = [line for line in lines if re.match(r"context-\d", line)]
    assert line.startswith(f"and {65 - len(shown) - 1 + (0 if row_of_proxy(lines) else 1)} more, all ready")


def row_of_proxy(lines: list[str]) -> bool:
    return any(line.startswith("proxy ") for line in lines)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_why_it_stops_is_told_and_how_the_stopped_ended_is_not() -> None:
    servers = [replace(s, state="stopped", reason="exit status 0") for s in BUSY.servers]
    lines = drawn(replace(BUSY, state="stopping", reason="SIGTERM", servers=servers), 80)
    assert lines[1] == "SIGTERM"
    assert not any("exit status" in line for line in lines)


def test_a_cluster_of_the_proxy_alone_or_of_nothing() -> None:
    quiet = ClusterStatus(cluster="c", state="starting", url="u", file=None, agent_pid=1, up_s=0, servers=[])
    assert drawn(quiet, 80) == ["c starting, up 0s, u"]
    assert len(drawn(replace(quiet, servers=[replace(PROXY, history=[])]), 200)) == 5


def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(width=120, file=out, force_terminal=True).print(cluster_view(BUSY, 120))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", out.getvalue())


def test_picture() -> None:
    svg = to_svg(cluster_view(BUSY, views.WIDE), "trtdisagg status", views.WIDE)
    assert svg.startswith("<svg")
    assert "generation-10" in svg
    assert "url(http" not in svg


def test_links_in_a_line_for_each_kind_and_what_is_broken() -> None:
    good = Link(context="context-0", generation="generation-10", is_open=True, transport="local", direction="pull")
    broken = replace(good, transport="", direction="", error="no way")
    links = [replace(good, gb_s=9.8), replace(good, gb_s=11.2), replace(good, is_open=False), *[broken] * 5]
    lines = drawn(replace(BUSY, links=links), 120)
    assert "KV local (pull), 9.8 to 11.2 GB/s, 2 links" in lines
    assert lines.count("! no KV from context-0 to generation-10: no way") == 3
    assert any(line.startswith("! and 2 more without KV") for line in lines)
    assert "KV local (pull), 3.0 GB/s, 1 link" in drawn(replace(BUSY, links=[replace(good, gb_s=3.0)]), 120)


def test_how_servers_divide_their_model_is_shown_where_one_does() -> None:
    servers = [replace(CONTEXT, parallel=Parallel(tp_size=2, pp_partition=[1, 1])), *GENERATION]
    lines = drawn(replace(BUSY, servers=servers), 200)
    assert "ranks" in next(line for line in lines if line.startswith("name"))
    assert any("tp2 pp2" in line for line in lines)
    assert "ranks" not in "\n".join(drawn(BUSY, 200))
