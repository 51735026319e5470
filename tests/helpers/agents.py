"""An agent run inside a test, with real children that are fake engines, and a look at what it leaves behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import pytest
from helpers.cluster import TEST_MARK, left_over, runtime_directory
from helpers.plans import FAKE_ENGINE, host
from helpers.traces import open_fds
from helpers.waiting import DEADLINE_S

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.control import ClusterStatus, DownRequest, ServerStatus
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import ModelFacts, Plan, make_plan
from trtdisagg.supervisor.run import run_agent


def fake_plan(
    *misbehaviour: str,
    with_proxy: bool = False,
    num_servers: int = 1,
    section: Mapping[str, Any] | None = None,
    **supervision: Any,
) -> Plan:
    """A plan whose servers are fake engines with these flags: one context server, or as many pairs."""
    one = ServerSection(command=[*FAKE_ENGINE, *misbehaviour], num_instances=num_servers, **(section or {}))
    cluster = ClusterFile(
        model="fake",
        port=0,
        context_servers=one,
        generation_servers=one if with_proxy else None,
        supervision=SupervisionConfig(**{"backoff_s": 0.1, "kill_timeout_s": 60, "drain_timeout_s": 60, **supervision}),
    )
    facts = {"fake": ModelFacts(path="fake", served_name="fake", dimensions=None)}
    machine = host(num_cores=2, cores=sorted(os.sched_getaffinity(0)))
    return make_plan(cluster, name="test", host=machine, models=facts, with_proxy=with_proxy)


class RunningAgent:
    """An agent in a task of this test.

    :ivar outcome: its exit code, or what it raised; None while it runs.
    """

    def __init__(self, plan: Plan, place: Place, nodes: NodeLinks | None = None) -> None:
        self.plan = plan
        self.nodes = nodes
        self.place = place
        self.outcome: int | Exception | None = None
        self.events: list[str] = []
        self.lines: list[tuple[str, str]] = []
        self._status: ClusterStatus | None = None
        self._changed = anyio.Event()

    async def run(self) -> None:
        try:
            self.outcome = await run_agent(
                self.plan,
                self.place,
                on_status=self._see,
                on_event=self.events.append,
                on_line=lambda name, line: self.lines.append((name, line)),
                nodes=self.nodes,
            )
        except Exception as e:  # noqa: BLE001 (the test looks at it)
            self.outcome = e
        self._changed.set()

    def _see(self, status: ClusterStatus) -> None:
        self._status = status
        self._changed.set()

    @property
    def status(self) -> ClusterStatus:
        assert self._status is not None
        return self._status

    def server(self, name: str) -> ServerStatus:
        return next(server for server in self.status.servers if server.name == name)

    async def until(self, is_so: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
        """Wait until something holds; looked at whenever the agent tells of a change."""
        await self._wait(lambda: self.outcome is not None or (self._status is not None and is_so()), timeout_s)
        assert self._status is not None, repr(self.outcome)
        assert is_so(), f"the agent ended before: {self.outcome!r}"

    async def until_ready(self) -> None:
        await self.until(lambda: self.status.state == "ready")

    async def until_over(self, timeout_s: float = DEADLINE_S) -> int | Exception:
        """
        :returns: the outcome.
        """
        await self._wait(lambda: self.outcome is not None, timeout_s)
        assert self.outcome is not None
        return self.outcome

    async def _wait(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s) as waiting:
            while not is_so():
                self._changed = anyio.Event()
                await self._changed.wait()
        assert not waiting.cancelled_caught, "never came true\n" + "\n".join(self.events)


@contextlib.asynccontextmanager
async def running_agent(plan: Plan, place: Place, nodes: NodeLinks | None = None) -> AsyncIterator[RunningAgent]:
    """An agent that runs in the block; whatever is left of it at the end is cancelled."""
    agent = RunningAgent(plan, place, nodes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.run)
        yield agent
        tasks.cancel_scope.cancel()


async def down(place: Place, **request: float | bool) -> None:
    """Have the agent there take its cluster down."""
    await anyio.to_thread.run_sync(ControlClient(place).down, msgspec.convert(request, DownRequest))


@contextlib.contextmanager
def nothing_left(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[Place]:
    """A place for an agent; at the end there must be no process, no descriptor and no run directory of it."""
    monkeypatch.setenv(TEST_MARK, str(directory))
    monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_directory(directory)))
    place = Place.of(str(directory), "test")
    fds = open_fds(os.getpid())
    yield place
    assert left_over(str(directory)) == []
    assert not place.run_dir.exists()
    assert open_fds(os.getpid()) <= fds
