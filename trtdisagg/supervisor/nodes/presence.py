"""What the coming and going of nodes means for the servers on them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Protocol

from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.events import Added, Event, LeaveAsked, Noticed, Then
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.plan import Plan
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

    async def move(self, names: Sequence[str]) -> Sequence[str]: ...


class Presence:
    """Moves the servers of a node that is gone, or about to go, to where there is room, and gives those that found none
    another chance when it is there again."""

    def __init__(self, cluster: Cluster, nodes: NodeLinks) -> None:
        self._cluster = cluster
        self._nodes = nodes

    def watch(self) -> None:
        """From now on."""
        self._nodes.on_notice = self._notice
        self._nodes.on_leaving = self._leaving
        self._nodes.on_back = self._back
        self._nodes.on_lost = self._lost

    def _notice(self, text: str) -> None:
        self._cluster.handle(Noticed(at=time.monotonic(), text=text))

    def _leaving(self, node: str, reason: str) -> None:
        why = f"{node} is about to go ({reason})"
        self._notice(why)
        self._cluster.soon(functools.partial(self._leave, node, why))

    async def _leave(self, node: str, why: str) -> None:
        """Let its servers drain, those that have another place to start there; then it may go."""
        drain_s = self._cluster.plan.supervision.drain_timeout_s
        there = {name: self._cluster.state.children[name].incarnation for name in self._servers(node)}
        staying = self._staying(there)
        moved = await self._move(staying)
        for name in self._staying(staying):
            then: Then = "restart" if name in moved else "stop"
            asked = LeaveAsked(at=time.monotonic(), name=name, then=then, timeout_s=drain_s, reason=why)
            self._cluster.handle(asked)

        def is_empty(state: ClusterState) -> bool:
            return not any(
                child.lives and child.incarnation == there[name]
                for name in there
                if (child := state.children.get(name)) is not None
            )

        await self._cluster.until(is_empty, time.monotonic() + drain_s + _AFTER_DRAIN_S)
        if self._nodes.has_left(node):  # else another agent of it has come meanwhile
            self._nodes.dismiss(node, why)

    def _lost(self, node: str) -> None:
        """What it had has ended, and is about to start again: by another plan, where there is one."""
        wanted = [name for name in self._staying(self._servers(node)) if not self._has_failed(name)]
        self._cluster.soon(functools.partial(self._move_all, wanted))

    async def _move_all(self, names: list[str]) -> None:
        """All but those whose node is back already: they start where they were."""
        self._start_failed(await self._move([name for name in names if self._has_to_move(name)]))

    def _has_to_move(self, name: str) -> bool:
        return any(map(self._nodes.has_left, self._cluster.plan_of(name).nodes))

    async def _move(self, names: list[str]) -> Sequence[str]:
        return await self._cluster.move(names) if names else []

    def _back(self, node: str) -> None:
        self._start_failed(self._servers(node))

    def _start_failed(self, names: Sequence[str]) -> None:
        for name in filter(self._has_failed, names):
            role = self._cluster.state.children[name].role
            self._cluster.handle(Added(at=time.monotonic(), name=name, role=role))

    def _has_failed(self, name: str) -> bool:
        child = self._cluster.state.children.get(name)
        return child is not None and child.phase == "failed"

    def _staying(self, names: Iterable[str]) -> list[str]:
        """Without those that were drained or removed, or are about to be: they do not come back."""
        children = self._cluster.state.children if self._cluster.state.stop is None else {}
        return [name for name in names if name in children and children[name].stays]

    def _servers(self, node: str) -> list[str]:
        return [name for name in self._cluster.state.children if node in self._cluster.plan_of(name).nodes]
