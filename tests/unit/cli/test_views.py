"""The live table, narrow and wide."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from tests.helpers.statuses import BUSY
from trtdisagg.cli import views
from trtdisagg.cli.views import cluster_view, to_svg
from trtdisagg.protocol.control import ClusterStatus


def drawn(status: ClusterStatus, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(cluster_view(status, width))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_every_fact_is_there_and_fits(width: int) -> None:
    lines = drawn(BUSY, width)
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["prod"] == ["prod", "degraded,", "up", "2h,", "http://127.0.0.1:8000"]
    assert [w for w in rows["proxy"] if w != "proxy"] == ["-", "1234567", "ready", "2h", "0", "0", "0", "-", "-", "-"]
    context = ["gpu", "0", "1234568", "ready", "1m", "0", "12", "1024", "100%", "12k", "0"]
    assert rows["context-0"][-len(context) :] == context
    table = [line.split() for line in lines if line.startswith("generation-10")]
    generation = ["cpu", "0-3,8", "-", "backoff", "-", "12", "64", "7", "1%", "0", "340"]
    assert table[0][-len(generation) :] == generation
    assert "generation-10 backoff: killed by SIGKILL" in lines


def test_the_role_is_left_out_only_where_the_name_says_it() -> None:
    assert "role" in drawn(BUSY, 200)[1].split()
    assert "role" not in drawn(BUSY, 80)[1].split()
    renamed = replace(BUSY, servers=[replace(BUSY.servers[1], name="a-0")])
    assert "role" in drawn(renamed, 80)[1].split()


def test_a_long_list_of_cores_gives_way() -> None:
    servers = [replace(s, cores=list(range(0, 64, 2)), gpus=[]) for s in BUSY.servers]
    lines = drawn(replace(BUSY, servers=servers), 80)
    assert max(map(len, lines)) <= 80
    assert all("12k" in line or "context-0" not in line for line in lines), "numbers are not what gives way"


def test_only_the_last_events_one_line_each() -> None:
    lines = drawn(BUSY, 80)
    assert [line[9:16] for line in lines[-5:]] == [f"event {i}" for i in range(3, 8)]
    assert all(line.endswith("…") for line in lines[-5:])


def test_why_it_stops_is_told_and_how_the_stopped_ended_is_not() -> None:
    servers = [replace(s, state="stopped", reason="exit status 0") for s in BUSY.servers]
    lines = drawn(replace(BUSY, state="stopping", reason="SIGTERM", servers=servers), 80)
    assert lines[1] == "SIGTERM"
    assert not any("exit status" in line for line in lines)


def test_a_cluster_without_servers_of_its_own() -> None:
    assert len(drawn(replace(BUSY, servers=[BUSY.servers[0]], events=[]), 80)) == 4


def test_picture() -> None:
    svg = to_svg(cluster_view(BUSY, views.WIDE), "trtdisagg status", views.WIDE)
    assert svg.startswith("<svg")
    assert "generation-10" in svg
    assert "url(http" not in svg


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.04, "0"),
        (0.06, "0.1"),
        (9.94, "9.9"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (34_000, "34k"),
    ],
)
def test_rate(value: float, words: str) -> None:
    assert views.rate(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_400 * 12, "12d")]
)
def test_duration(seconds: float, words: str) -> None:
    assert views.duration(seconds) == words


@pytest.mark.parametrize(("numbers", "words"), [([], ""), ([3], "3"), ([1, 0, 2, 8], "0-2,8"), ([0, 2, 4], "0,2,4")])
def test_ranges(numbers: list[int], words: str) -> None:
    assert views.ranges(numbers) == words
