"""What has to be done so that what runs is what a cluster file says. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trtdisagg.config.load import Loaded
from trtdisagg.supervisor import wish as wishes
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.state import ClusterState


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """Between what runs and what a file says."""

    lines: list[str]
    """For people."""
    added: list[str]
    removed: list[str]
    changed: list[str]
    """To be restarted, one after the other."""

    @staticmethod
    def of(
        old: Loaded, new: Loaded, state: ClusterState, plan_of: Callable[[str], ChildPlan], plan: Plan
    ) -> Difference:
        """
        :param plan: made of the new file.
        """
        there = {c.name: c for c in [*wishes.servers(state), *wishes.proxies(state)]}
        planned = {child.name: child for child in plan.children}
        rests = [name for name, child in there.items() if not child.stays or child.phase == "failed"]
        added = [name for name in planned if name not in there or name in rests]
        removed = [name for name in there if name not in planned]
        changed = [
            name
            for name, child in planned.items()
            if name in there and name not in rests and _differs(child, plan_of(name), there[name])
        ]
        lines = wishes.changes(msgspec.to_builtins(old.cluster), msgspec.to_builtins(new.cluster))
        lines += [f"+ {name}" for name in added] + [f"- {name}" for name in removed]
        return Difference(
            lines=[*lines, *(f"~ {name}: restarts" for name in changed)],
            added=added,
            removed=removed,
            changed=changed,
        )


def _differs(planned: ChildPlan, now: ChildPlan, child: Child) -> bool:
    return planned.settings != now.settings or planned.role != child.role
