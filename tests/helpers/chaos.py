"""A cluster under load to which bad things happen, one after the other, and what each must and may cost.

Scene       the cluster, its clients, what it tells; `suffer` lets one fault happen and waits until all is well
a fault     a function: does it, waits until it is noticed, and returns when and who must be another process then
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from helpers.cluster import Cluster
from helpers.follow import Follower, Told
from helpers.load import Load
from helpers.traces import num_threads, open_fds
from helpers.waiting import DEADLINE_S, until

SPARE_THREADS = 8
"""Threads of a pool come with the first use and go when they have been idle."""


class Cost(msgspec.Struct, kw_only=True, frozen=True):
    """What a fault did.

    :ivar noticed_s: from the deed to the journal's entry; None: there is nothing to notice.
    :ivar replaced: server and the pid that it had: it must have another one.
    :ivar may_tell: how errors may begin that clients get; none other may come.
    """

    noticed_s: float | None = None
    replaced: dict[str, int] = {}
    may_tell: tuple[str, ...] = ()


Fault = Callable[["Scene"], Cost]


class Scene:
    """
    :ivar load: the clients.
    """

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self.cluster = cluster
        self.load = load
        self.num_faults: Counter[str] = Counter()
        self.num_errors: Counter[str] = Counter()
        self.noticed_s: defaultdict[str, list[float]] = defaultdict(list)
        self.back_s: defaultdict[str, list[float]] = defaultdict(list)
        self._following = contextlib.ExitStack()

    def __enter__(self) -> Scene:
        self.follow()
        return self

    def __exit__(self, *_: object) -> None:
        self._following.close()

    # --- what it tells ----------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Listen to the agent that is there now."""
        self._following.close()
        self.events = self._following.enter_context(Follower(self.cluster, "events", "-f", "--json"))
        self.statuses = self._following.enter_context(Follower(self.cluster, "status", "--watch", "--json"))
        self._wait_ready({})
        for server in self.status["servers"]:  # all that has happened so far is read
            self.event(0, "reported", server["name"], "ready on")
        self.agent_pid: int = self.status["agent_pid"]
        self._fds, self._threads = open_fds(self.agent_pid), num_threads(self.agent_pid)

    @property
    def status(self) -> Told:
        return self.statuses.told[-1]

    def server(self, name: str) -> dict[str, Any]:
        return _row(self.status, name)

    def event(self, since: int, kind: str, name: str = "", text: str = "") -> Told:
        """Wait for an entry of the journal after the first so many."""

        def is_it(entry: Told) -> bool:
            event = entry["event"]
            is_of = not name or event.get("name") == name
            return event["event"] == kind and is_of and text in (entry["text"] or "")

        entry = self.events.wait(is_it, since=since, timeout_s=DEADLINE_S)
        assert entry is not None, f"no {kind} {name} {text}: {[e['text'] for e in self.events.told[since:]]}"
        return entry

    # --- faults -----------------------------------------------------------------------------------------------------

    def suffer(self, name: str, fault: Fault, may_tell: tuple[str, ...] = ()) -> None:
        """Let a fault happen; return when the cluster is ready and its clients get answers.

        :param may_tell: what clients of this cluster may be told, too.
        """
        num_problems, began = len(self.load.problems), time.monotonic()
        cost = fault(self)
        self._wait_ready(cost.replaced)
        self.back_s[name].append(time.monotonic() - began)
        self.load.until(self.load.num_clients * 2)
        self.num_faults[name] += 1
        if cost.noticed_s is not None:
            self.noticed_s[name].append(cost.noticed_s)
        problems = self.load.problems[num_problems:]
        self.num_errors[name] += len(problems)
        wrong = [p for p in problems if not p.partition(": ")[2].startswith((*cost.may_tell, *may_tell))]
        assert not wrong, f"{name}: {wrong[:5]} and {len(problems)} in all; {self.last_events()}"

    def last_events(self) -> list[str]:
        return [entry["text"] for entry in self.events.told[-20:] if entry["text"]]

    def check_agent(self) -> None:
        """The agent holds no more descriptors and threads than when it was first ready, but for logs in which nothing
        was then: each is open once. Those of connections that just end may still be there."""
        logs = {s["log_file"] for s in self.status["servers"]}
        allowed = self._fds | Counter([*logs, *(log.removesuffix(".log") + ".times" for log in logs)])
        until(
            lambda: open_fds(self.agent_pid) <= allowed,
            "no more descriptors of the agent than",
            instead=lambda: f"{allowed}: {open_fds(self.agent_pid) - allowed}",
        )
        assert num_threads(self.agent_pid) <= self._threads + SPARE_THREADS

    def _wait_ready(self, replaced: dict[str, int]) -> None:
        def is_back(status: Told) -> bool:
            others = all(_row(status, name)["pid"] not in (None, pid) for name, pid in replaced.items())
            return status["state"] == "ready" and others and all(s["state"] == "ready" for s in status["servers"])

        last = max(0, len(self.statuses.told) - 1)
        is_there = self.statuses.wait(is_back, since=last, timeout_s=DEADLINE_S)
        assert is_there, f"not ready again: {self.statuses.told[-1:]}, {self.last_events()}"

    def summary(self) -> str:
        """A line for each kind of fault."""
        lines = [
            f"{name}: {n} times, noticed within {_most(self.noticed_s[name])}, back within {_most(self.back_s[name])}, "
            f"{self.num_errors[name]} errors told"
            for name, n in sorted(self.num_faults.items())
        ]
        return "\n".join([*lines, f"{self.load.num_answered} answered, {len(self.load.problems)} errors told"])


def _most(seconds: list[float]) -> str:
    return f"{max(seconds):.2f} s" if seconds else "-"


def _row(status: Told, name: str) -> dict[str, Any]:
    row: dict[str, Any] = next(s for s in status["servers"] if s["name"] == name)
    return row


@contextlib.contextmanager
def scene(cluster: Cluster, num_clients: int, **load: Any) -> Iterator[Scene]:
    """A running cluster under load; what it cost is printed at the end."""
    clients = Load(cluster.url, num_clients, **load)
    with Scene(cluster, clients) as it, clients.running():
        clients.until(num_clients)
        try:
            yield it
        finally:
            print(it.summary())


# --- faults that any engine can have --------------------------------------------------------------------------------

CUT = ("Client", "ServerDisconnectedError")
"""A connection that ends: what a client sees of a proxy that was killed."""
TOLD = ("error event",)
"""What it sees of the end of all generation servers in the middle of an answer."""


def kill(name: str) -> Fault:
    """kill -9 of a server or the proxy."""

    def fault(scene: Scene) -> Cost:
        pid, since, at = scene.server(name)["pid"], len(scene.events.told), time.time()
        os.kill(pid, signal.SIGKILL)
        entry = scene.event(since, "exited", name, "killed by SIGKILL")
        return Cost(noticed_s=entry["time"] - at, replaced={name: pid}, may_tell=may_tell(name))

    return fault


def freeze(name: str) -> Fault:
    """SIGSTOP: it is not routed to soon, and replaced when it stays so."""

    def fault(scene: Scene) -> Cost:
        pid, since, at = scene.server(name)["pid"], len(scene.events.told), time.time()
        os.kill(pid, signal.SIGSTOP)
        stalled = scene.event(since, "stall", name)
        scene.event(since, "kill", name, "no sign of life")
        return Cost(noticed_s=stalled["time"] - at, replaced={name: pid}, may_tell=may_tell(name))

    return fault


def may_tell(name: str) -> tuple[str, ...]:
    """How errors may begin that clients get when this one is no more. Of a server nobody sees anything: what it was
    about to say is said by another, or by the one that takes its place."""
    return CUT if name == "proxy" else ()
