"""What the coming and going of nodes means for the servers on them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Protocol

from trtdisagg.supervisor.events import Added, Event, LeaveAsked, Noticed
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.server_plan import ChildPlan
from trtdisagg.supervisor.state import ClusterState

_AFTER_DRAIN_S = 60.0
"""For servers that have drained, or whose time to do so is over, to end."""


class Cluster(Protocol):
    """The part of an agent that is needed here."""

    plan: Plan
    state: ClusterState

    def handle(self, event: Event) -> None: ...

    def soon(self, task: Callable[[], Coroutine[None, None, None]]) -> None: ...

    async def until(self, is_so: Callable[[ClusterState], bool], deadline: float) -> bool: ...

    def plan_of(self, name: str) -> ChildPlan: ...


class Presence:
    """Drains the servers of a node that is about to go, and gives those of one that is there again another chance."""

    def __init__(self, cluster: Cluster, nodes: NodeLinks) -> None:
        self._cluster = cluster
        self._nodes = nodes

    def watch(self) -> None:
        """From now on."""
        self._nodes.on_notice = self._notice
        self._nodes.on_leaving = self._leaving
        self._nodes.on_back = self._back

    def _notice(self, text: str) -> None:
        self._cluster.handle(Noticed(at=time.monotonic(), text=text))

    def _leaving(self, node: str, reason: str) -> None:
        why = f"{node} is about to go ({reason})"
        self._notice(why)
        drain_s = self._cluster.plan.supervision.drain_timeout_s
        for name in self._servers(node):
            asked = LeaveAsked(at=time.monotonic(), name=name, then="stop", timeout_s=drain_s, reason=why)
            self._cluster.handle(asked)
        self._cluster.soon(functools.partial(self._dismiss, node, why, drain_s + _AFTER_DRAIN_S))

    async def _dismiss(self, node: str, why: str, timeout_s: float) -> None:
        """Let it go when nothing of ours runs there any more, or will not end."""

        def is_empty(state: ClusterState) -> bool:
            return not any(state.children[name].lives for name in self._servers(node))

        await self._cluster.until(is_empty, time.monotonic() + timeout_s)
        self._nodes.dismiss(node, why)

    def _back(self, node: str) -> None:
        for name in self._servers(node):
            child = self._cluster.state.children[name]
            if child.phase == "failed":
                self._cluster.handle(Added(at=time.monotonic(), name=name, role=child.role))

    def _servers(self, node: str) -> list[str]:
        return [name for name in self._cluster.state.children if node in self._cluster.plan_of(name).nodes]
