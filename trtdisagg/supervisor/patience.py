"""Waits until wishes have come true: servers that are gone, servers that are back. Every wait has a deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from trtdisagg.errors import StartupError
from trtdisagg.supervisor.running import Running
from trtdisagg.supervisor.state import ClusterState

_MARGIN_S = 5.0


class Patience:
    """
    :param agent: whose state is looked at.
    """

    def __init__(self, agent: Running) -> None:
        self._agent = agent

    def deadline(self, timeout_s: float | None, num_servers: int = 1) -> float:
        """When so many servers, one after the other, must have drained, ended and come back.

        :param timeout_s: of each drain; None: the cluster file's.
        """
        rules = self._agent.plan.supervision
        drain_s = rules.drain_timeout_s if timeout_s is None else timeout_s
        each_s = drain_s + 2 * rules.kill_timeout_s + rules.start_timeout_s
        return time.monotonic() + each_s * max(1, num_servers) + _MARGIN_S

    async def until_gone(self, names: Sequence[str], timeout_s: float | None) -> None:
        """
        :raises StartupError: when one still lives at the deadline.
        """

        children = self._agent.state.children
        living = {children[name].incarnation for name in names if name in children and children[name].lives}

        def are_gone(state: ClusterState) -> bool:
            return living.isdisjoint(child.incarnation for child in state.children.values())

        if not await self._agent.until(are_gone, self.deadline(timeout_s)):
            raise StartupError(f"{', '.join(names)}: not gone within the deadline; see `trtdisagg status`")

    async def until_back(
        self, names: Sequence[str], before: Mapping[str, str | None], timeout_s: float | None, *, in_turn: bool = False
    ) -> None:
        """
        :param before: the incarnations that shall be gone, by name.
        :param in_turn: they start one after the other.
        :raises StartupError: when one is not ready in the end.
        """

        def are_back(state: ClusterState) -> bool:
            return all(_is_over(state, name, before.get(name)) for name in names)

        await self._agent.until(are_back, self.deadline(timeout_s, len(names) if in_turn else 1))
        if (stop := self._agent.state.stop) is not None:
            raise StartupError(f"the cluster goes down meanwhile: {stop.reason}")
        for name in names:
            child = self._agent.state.children.get(name)
            if child is None or not self._agent.state.is_up(child):
                why = f"{child.phase}: {child.reason}" if child else "gone"
                raise StartupError(f"{name} is not ready ({why})")


def _is_over(state: ClusterState, name: str, before: str | None) -> bool:
    """Whether another incarnation is up, or there will be none."""
    child = state.children.get(name)
    if child is None or not child.stays or child.phase in ("failed", "stopped") or state.stop is not None:
        return True
    return child.lives and child.incarnation != before and state.is_up(child)
