"""What a service manager is told of a cluster, in the words of sd_notify(3): datagrams to the socket `NOTIFY_SOCKET`.

    READY=1                   it can serve, for the first time; and when a reload is over
    STATUS=...                one line for `systemctl status`
    RELOADING=1               the cluster file is read again
    STOPPING=1                it goes down
    EXTEND_TIMEOUT_USEC=...   while it starts or goes down: have patience for so long from now on
    WATCHDOG=1                the agent's loop runs: sent from that loop, so one that hangs starves the watchdog

Nothing here blocks or raises: a service manager that does not listen is no reason for a cluster to fail. Without a
socket nothing happens at all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping

import anyio

from trtdisagg.protocol.control import ClusterStatus

VARIABLES = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"}
)
"""What a service manager tells its service alone: a child that followed it would speak in the agent's name."""

_PULSE_S = 5.0
"""How often what changes all the time, the number of requests, is told."""
_PATIENCE_S = 30.0
_MAX_STATUS_CHARS = 200
_MAX_REASON_CHARS = 120
_SERVING = ("ready", "degraded")
_ENDING = ("stopping", "failed")


def without_variables(env: Mapping[str, str]) -> dict[str, str]:
    """An environment for children: one without what is meant for the agent alone."""
    return {key: value for key, value in env.items() if key not in VARIABLES}


# --- what to say, pure ----------------------------------------------------------------------------------------------


def messages(before: ClusterStatus | None, now: ClusterStatus) -> list[str]:
    """What is to be said of a change.

    :param before: what was told last; None: nothing yet.
    """
    said = []
    was = before.state if before else "starting"
    if now.state in _SERVING and was == "starting":
        said.append("READY=1")
    if now.state in _ENDING and was not in _ENDING:
        said.append("STOPPING=1")
    if before is None or now.state != was:
        said += _patience(now)
    line = status_line(now)
    if before is None or line != status_line(before):
        said.append(f"STATUS={line}")
    return said


def status_line(status: ClusterStatus) -> str:
    """One line for people: `2 of 3 servers ready, 12 requests`."""
    what = _servers(status)
    if status.others:
        what.append(f"{len(status.others)} elsewhere")
    if status.state != "starting":
        num_requests = _num_requests(status)
        what.append(f"{num_requests} request{'' if num_requests == 1 else 's'}")
    if status.state in _ENDING and status.reason:
        what.insert(0, status.reason.splitlines()[0][:_MAX_REASON_CHARS])
    head = "" if status.state == "ready" else f"{status.state}: "
    return _one_line(head + ", ".join(what))


def _servers(status: ClusterStatus) -> list[str]:
    """What our own servers do; of a cluster that only routes, what the proxy does."""
    servers = [server for server in status.servers if server.role != "proxy"]
    if not servers:
        return [f"{server.name} {server.state}" for server in status.servers]
    if status.state in _ENDING:
        num_left = sum(server.state not in ("stopped", "failed") for server in servers)
        return [f"{num_left} of {len(servers)} servers left"]
    num_ready = sum(server.state == "ready" for server in servers)
    return [f"{num_ready} of {len(servers)} servers ready"]


def _num_requests(status: ClusterStatus) -> int:
    """As clients count them: at the proxy, where there is one, because each works on two servers."""
    proxies = [server for server in status.servers if server.role == "proxy"]
    return sum(server.stats.num_running + server.stats.num_waiting for server in proxies or status.servers)


def _one_line(text: str) -> str:
    """The end of a line would be the end of the message, and what follows a message of its own."""
    return " ".join(text.split())[:_MAX_STATUS_CHARS]


def _patience(status: ClusterStatus) -> list[str]:
    """Starting and draining may take longer than the unit file allows; both have deadlines of their own."""
    if status.state in _SERVING:
        return []
    return [f"EXTEND_TIMEOUT_USEC={_PATIENCE_S * 1e6:.0f}"]


# --- saying it ------------------------------------------------------------------------------------------------------


class Notifier:
    """Tells the service manager, where there is one.

    :param env: this process's environment.
    """

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._address = _address(env)
        watchdog_s = _watchdog_s(env)
        self._beat = [] if watchdog_s is None else ["WATCHDOG=1"]
        self._pulse_s = _PULSE_S if watchdog_s is None else min(_PULSE_S, watchdog_s / 3)
        self._told: ClusterStatus | None = None
        self._now: ClusterStatus | None = None
        self._owes_ready = False

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._address is not None

    def tell(self, status: ClusterStatus) -> None:
        """Take note of a status, to be called with each; what matters is said at once, the rest with the next pulse."""
        if self._address is None:
            return
        self._now = status
        if self._told is None or _headline(status) != _headline(self._told):
            self._say()

    async def run(self) -> None:
        """Show that the loop that runs this is alive, until cancelled."""
        while self._address is not None:
            self._say(*self._beat, *(_patience(self._now) if self._now else []))
            await anyio.sleep(self._pulse_s)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """While the block runs, the service reloads. Before it could serve, and while it ends, it is only said to."""
        if self._now is None or self._now.state not in _SERVING:
            yield
            return
        self._send(["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"])
        try:
            yield
        finally:
            self._owes_ready = True
            self._say()

    def _say(self, *more: str) -> None:
        """Say what has changed since it was last heard, so what did not get through is said again."""
        said = messages(self._told, self._now) if self._now else []
        if self._owes_ready and self._now and self._now.state in _SERVING:
            said.insert(0, "READY=1")
        if (said or more) and self._send([*said, *more]):
            self._told = self._now
            self._owes_ready = False

    def _send(self, lines: list[str]) -> bool:
        """
        :returns: whether it got through: not when nobody listens, or when too much is waiting to be heard.
        """
        if self._address is None:
            return False
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(errors="replace"), socket.MSG_DONTWAIT, self._address)
            return True
        return False


def _headline(status: ClusterStatus) -> tuple[str, int]:
    return status.state, sum(server.state == "ready" for server in status.servers)


def _address(env: Mapping[str, str]) -> str | None:
    """A path, or a name in the kernel's own space, which is written with @ for its leading zero byte."""
    word = env.get("NOTIFY_SOCKET", "")
    return word.replace("@", "\0", 1) if word.startswith(("/", "@")) else None


def _watchdog_s(env: Mapping[str, str]) -> float | None:
    """Within what time a sign of life is wanted of this process; None: of none, or of another."""
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    word = env.get("WATCHDOG_USEC", "")
    return int(word) / 1e6 if word.isdecimal() and int(word) else None
