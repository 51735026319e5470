"""The live screen in a real terminal (tmux): `top` and `up`, narrow, wide, and while the window changes."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from pathlib import Path

from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster, running
from helpers.ports import free_port
from helpers.tmux import needs_tmux, terminal

pytestmark = [needs_tmux]

_OURS = ("PYTHONPATH", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TRTDISAGG_TEST")
_HEADINGS = "restarts run wait KV in/s out/s TTFT TPOT GB/s"


def _text(port: int) -> str:
    command = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
    return f"""\
name: screen
model: fake
port: {port}
command: {command}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 2}}
"""


def _env(cluster: Cluster) -> dict[str, str]:
    return {"TERM": "screen-256color", **{key: cluster.env[key] for key in _OURS}}


def _is_drawn(lines: list[str]) -> bool:
    return lines[0].startswith("screen ready, up") and any(line.startswith("generation-1 ") for line in lines)


def _num_tables(lines: list[str]) -> int:
    return sum(line.startswith("name") for line in lines)


def _words(line: str) -> str:
    return " ".join(line.split())


def _is_drawn_once(lines: list[str], heading: str) -> bool:
    states = sum(line.startswith("screen ready") for line in lines)
    return states == 1 and sum(bool(re.match(heading, line)) for line in lines) == 1


def test_top_at_every_width_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    with (
        running(tmp_path, _text(free_port())) as cluster,
        terminal([*TRTDISAGG, "top"], env=_env(cluster), cwd=tmp_path, width=80, height=24) as term,
    ):
        narrow = term.until(_is_drawn)
        assert sum(line.startswith("name") for line in narrow) == 2, "two tables"
        assert not any("BEFORE" in line for line in narrow), "a screen of its own"

        term.resize(200, 30)
        wide = term.until(lambda lines: _num_tables(lines) == 1 and any(_HEADINGS in _words(line) for line in lines))
        assert sum(line.startswith("generation-0") for line in wide[:10]) == 1

        os.kill(int(cluster.server("generation-1")["pid"]), signal.SIGKILL)
        term.until(lambda lines: any("generation-1: ended: killed by SIGKILL" in line for line in lines))
        term.resize(80, 24)
        term.until(lambda lines: _is_drawn(lines) and sum(line.startswith("name") for line in lines) == 2)

        term.keys("q")
        after = term.until(lambda lines: any("exit status" in line for line in lines))
        assert [line for line in after if line] == ["BEFORE", "exit status 0"], "the scroll-back is as it was"
        assert not any("generation" in line for line in term.scroll_back())
        assert cluster.status()["state"] == "ready", "leaving does not touch the cluster"


def test_ctrl_c_leaves_top_and_the_end_of_the_cluster_ends_it(tmp_path: Path) -> None:
    with running(tmp_path, _text(free_port())) as cluster:
        with terminal([*TRTDISAGG, "top"], env=_env(cluster), cwd=tmp_path, width=80, height=24) as term:
            term.until(_is_drawn)
            term.keys("C-c")
            term.until(lambda lines: "exit status 0" in lines)
            assert cluster.status()["state"] == "ready"
        watch = [*TRTDISAGG, "status", "--watch"]
        with terminal(watch, env=_env(cluster), cwd=tmp_path, width=120, height=24) as term:
            term.until(_is_drawn)
            cluster.down()
            after = term.until(lambda lines: "exit status 0" in lines)
            assert "screen is not running any more" in after
        cluster.up()  # for the fixture to take down


def test_up_draws_over_itself_and_leaves_its_last_state(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, _text(free_port()))
    with terminal([*TRTDISAGG, "up"], env=_env(cluster), cwd=tmp_path, width=120, height=40) as term:
        term.until(lambda lines: any(line.startswith("screen ready, up") for line in lines))
        for width, heading in (
            (80, r"name +run wait"),
            (150, r"name .*restarts  run  wait"),
            (110, r"name .*s run wait"),
        ):
            term.resize(width, 40)
            screen = term.until(functools.partial(_is_drawn_once, heading=heading))
            assert sum("/v1/chat/completions" in line for line in screen) == 1, "how to ask it stays in sight"
        term.keys("C-c")
        after = term.until(lambda lines: "exit status 130" in lines)
        assert any(line.startswith("screen stopping") for line in after)
        assert [line.split()[4] for line in after if line.startswith("generation-1 ")][:1] == ["stopped"]
    assert cluster.left_over() == []
