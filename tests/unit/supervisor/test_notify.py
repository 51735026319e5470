"""What the service manager is told, and that nothing it does or leaves undone hurts the cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.notify import Ear, listening

from trtdisagg.protocol.control import ClusterStatus, Member, ServerStatus
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.notify import Notifier, messages, status_line, without_variables

PATIENCE = "EXTEND_TIMEOUT_USEC=30000000"


def status(state: Any, *servers: Any, num_requests: int = 0, num_waiting: int = 0, **more: Any) -> ClusterStatus:
    """A proxy, and servers of which only the states matter."""
    rows = [ServerStatus(name=f"context-{i}", role="context", state=s) for i, s in enumerate(servers)]
    proxy = ServerStatus(
        name="proxy", role="proxy", state="ready", stats=Stats(num_running=num_requests, num_waiting=num_waiting)
    )
    facts: dict[str, Any] = {"cluster": "c", "url": "http://h:1", "file": None, "agent_pid": 1, "up_s": 1.0}
    return ClusterStatus(**{**facts, "state": state, "servers": [proxy, *rows], **more})


STARTING = status("starting", "loading", "ready")
READY = status("ready", "ready", "ready")
DEGRADED = status("degraded", "backoff", "ready")
STOPPING = status("stopping", "draining", "stopped", reason="SIGTERM")
FAILED = status("failed", "failed", "stopped", reason="context-0 died\nWATCHDOG=1")

# --- what to say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, STARTING, [PATIENCE, "STATUS=starting: 1 of 2 servers ready"]),
        (STARTING, STARTING, []),
        (STARTING, READY, ["READY=1", "STATUS=2 of 2 servers ready, 0 requests"]),
        (STARTING, DEGRADED, ["READY=1", "STATUS=degraded: 1 of 2 servers ready, 0 requests"]),
        (None, READY, ["READY=1", "STATUS=2 of 2 servers ready, 0 requests"]),
        (READY, DEGRADED, ["STATUS=degraded: 1 of 2 servers ready, 0 requests"]),
        (DEGRADED, READY, ["STATUS=2 of 2 servers ready, 0 requests"]),
        (READY, STOPPING, ["STOPPING=1", PATIENCE, "STATUS=stopping: SIGTERM, 1 of 2 servers left, 0 requests"]),
        (STARTING, STOPPING, ["STOPPING=1", PATIENCE, "STATUS=stopping: SIGTERM, 1 of 2 servers left, 0 requests"]),
        (READY, FAILED, ["STOPPING=1", PATIENCE, "STATUS=failed: context-0 died, 0 of 2 servers left, 0 requests"]),
        (STOPPING, STOPPING, []),
    ],
)
def test_what_is_said_of_a_change(before: ClusterStatus | None, now: ClusterStatus, said: list[str]) -> None:
    assert messages(before, now) == said


def test_stopping_is_said_once() -> None:
    assert "STOPPING=1" not in messages(STOPPING, FAILED)


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (status("ready", "ready", "ready", "stalled", num_requests=12), "2 of 3 servers ready, 12 requests"),
        (status("ready", "ready", num_requests=1), "1 of 1 servers ready, 1 request"),
        (status("ready", "ready", num_requests=2, num_waiting=3), "1 of 1 servers ready, 5 requests"),
        (status("ready"), "proxy ready, 0 requests"),
        (
            status("ready", "ready", others=[Member(name="g", role="generation", model="m", url="a:1")]),
            "1 of 1 servers ready, 1 elsewhere, 0 requests",
        ),
    ],
)
def test_status_line(now: ClusterStatus, line: str) -> None:
    assert status_line(now) == line


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\u2028"])
def test_a_reason_cannot_begin_a_message_of_its_own(end: str) -> None:
    line = status_line(status("stopping", reason=f"what{end}MAINPID=1"))
    assert line == "stopping: what, proxy ready, 0 requests"


def test_a_long_reason_does_not_push_out_the_rest() -> None:
    line = status_line(status("stopping", reason=500 * "x"))
    assert len(line) <= 200
    assert line.endswith("xxx, proxy ready, 0 requests")


# --- saying it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notify", f"@trtdisagg-{os.getpid()}"], ids=["path", "abstract"])
def test_it_is_heard(tmp_path: Path, name: str) -> None:
    with listening(tmp_path, name) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address})
        notifier.tell(STARTING)
        notifier.tell(READY)
        assert ear.rest() == [*messages(None, STARTING), *messages(STARTING, READY)]


def test_the_number_of_requests_alone_waits_for_the_pulse(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address})
        notifier.tell(READY)
        for num_requests in range(10):
            notifier.tell(status("ready", "ready", "ready", num_requests=num_requests))
        assert ear.rest() == messages(None, READY)


@pytest.mark.anyio
async def test_the_pulse(tmp_path: Path) -> None:
    """The watchdog is fed, the number of requests told, and while it goes down patience asked for again and again."""
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "60000", "WATCHDOG_PID": str(os.getpid())})
        async with anyio.create_task_group() as tasks:
            notifier.tell(READY)
            tasks.start_soon(notifier.run)
            assert await ear.hear("WATCHDOG=1")
            notifier.tell(status("ready", "ready", "ready", num_requests=7))
            assert await ear.hear("STATUS=") == "STATUS=2 of 2 servers ready, 7 requests"
            assert PATIENCE not in ear.heard
            notifier.tell(STOPPING)
            for _ in range(3):
                assert await ear.hear(PATIENCE)
            assert await ear.hear("WATCHDOG=1"), "also while it goes down"
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_loop_that_hangs_starves_the_watchdog(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "30000"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notifier.run)
            await ear.hear("WATCHDOG=1")
            ear.rest()
            num_heard = len(ear.heard)
            time.sleep(0.1)  # noqa: ASYNC251 (this is the loop that hangs)
            assert len(ear.rest()) == num_heard
            await ear.hear("WATCHDOG=1")
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}])
@pytest.mark.anyio
async def test_no_watchdog_that_is_ours(tmp_path: Path, watchdog: dict[str, str]) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address, **watchdog})
        with anyio.move_on_after(0.1):
            notifier.tell(READY)
            await notifier.run()
        assert ear.rest() == messages(None, READY)


def test_a_reload_begins_and_ends(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address})
        notifier.tell(READY)
        ear.rest().clear()
        before_us = time.monotonic_ns() // 1000
        with notifier.reloading():
            assert ear.rest()[0] == "RELOADING=1"
            assert before_us <= int(ear.heard[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
            ear.heard.clear()
            notifier.tell(DEGRADED)
        assert ear.rest() == ["STATUS=degraded: 1 of 2 servers ready, 0 requests", "READY=1"]


def test_a_reload_does_not_call_a_cluster_ready_that_is_not(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address})
        notifier.tell(STARTING)
        with notifier.reloading():
            pass
        notifier.tell(READY)
        assert ear.rest().count("READY=1") == 1
        with notifier.reloading():
            notifier.tell(STOPPING)
        assert ear.rest().count("READY=1") == 1


# --- nobody listens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
@pytest.mark.anyio
async def test_without_a_socket_nothing_happens(address: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdisagg.supervisor.notify.messages", None)  # would not go well
    notifier = Notifier({**address, "WATCHDOG_USEC": "30000"})
    notifier.tell(READY)
    with notifier.reloading():
        pass
    with anyio.fail_after(60):
        await notifier.run()


@pytest.mark.parametrize("address", ["/no/such/socket", "/" + 200 * "x", "@nobody-listens-here"])
@pytest.mark.anyio
async def test_a_socket_that_is_not_there_hurts_nobody(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000"})
    notifier.tell(READY)
    with notifier.reloading(), anyio.move_on_after(0.02) as ran:
        await notifier.run()
    assert ran.cancelled_caught


def full(ear: Ear) -> int:
    """Fill the queue of what waits to be heard; returns how many messages it took."""
    notifier = Notifier({"NOTIFY_SOCKET": ear.address})
    num_sent = 0
    while notifier._send(["STATUS=noise"]):
        num_sent += 1
    return num_sent


def test_what_did_not_get_through_is_said_again_and_never_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path) as ear:
        notifier = Notifier({"NOTIFY_SOCKET": ear.address})
        notifier.tell(STARTING)
        assert full(ear) > 0
        notifier.tell(READY)
        assert "READY=1" not in ear.rest()
        notifier.tell(READY)
        assert "READY=1" in ear.rest()
        ear.heard.clear()
        with notifier.reloading():
            full(ear)
        assert "READY=1" not in ear.rest()
        notifier.tell(DEGRADED)
        assert "READY=1" in ear.rest()


# --- children -------------------------------------------------------------------------------------------------------


def test_children_are_told_nothing() -> None:
    env = {"PATH": "/bin", "NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_FDS": "1"}
    assert without_variables(env) == {"PATH": "/bin"}
    assert "NOTIFY_SOCKET" in env
