"""What the verbs need of an agent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.events import Event
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.state import ClusterState


class Running(Protocol):
    """An agent that runs a cluster."""

    state: ClusterState
    plan: Plan

    def nodes_of(self, host: Host) -> Sequence[Node]:
        """The nodes of the cluster, as they are now; none: this host alone.

        :param host: what this one has now.
        """

    def has_left(self, node: str) -> bool:
        """Whether nothing can be started on a node any more."""

    def handle(self, event: Event) -> None:
        """Take an event in, and do what follows."""

    def replan(self, plan: Plan) -> None:
        """Take over another plan; children of the old one that still live keep theirs until they are gone.

        :raises StartupError: the proxy's address cannot be had; then the old plan goes on.
        """

    def plan_of(self, name: str) -> ChildPlan:
        """The plan of a child."""

    def soon(self, task: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a task that nobody waits for, as long as the cluster lives."""

    async def until(self, is_so: Callable[[ClusterState], bool], deadline: float) -> bool:
        """Wait until the state is so; False when the deadline came first."""
