"""The state of a cluster, and what follows from it. Pure; how events change it is in `reducer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.events import ChildRole

PROXY = "proxy"
"""The role of a proxy, and its name where there is one; several are `proxy-0`, `proxy-1`, ... One that was replaced and
finishes what it has is `proxy.1`, `proxy.2`, ... (`proxy-0.1`, ...)."""


def current_name(name: str) -> str:
    """The name of a proxy's successor; of one that was not replaced, its own."""
    return name.partition(".")[0]


def is_replaced(child: Child) -> bool:
    """Whether it is a proxy that has a successor."""
    return child.role == PROXY and child.name != current_name(child.name)


class Stop(msgspec.Struct, kw_only=True, frozen=True):
    """The cluster is going down."""

    at: float
    reason: str
    exit_code: int
    timeout_s: float | None = None
    force: bool = False


class Roll(msgspec.Struct, kw_only=True, frozen=True):
    """Children that are restarted in turn."""

    names: tuple[str, ...]
    """The first is under way."""
    timeout_s: float
    reason: str
    incarnation: str | None = None
    """The one of the first that has to go; None: it was not asked yet."""


class Holder(msgspec.Struct, frozen=True):
    """Somebody who routes to our servers."""

    members: frozenset[str] = frozenset()
    """Incarnations that it may route to."""
    in_use: Mapping[str, int] = {}


class ClusterState(msgspec.Struct, kw_only=True, frozen=True):
    run_id: str
    started_at: float
    children: dict[str, Child]
    """By name; never changed in place."""
    num_forgotten_starts: dict[str, int] = {}
    """Of children that were forgotten, by name: a name may come again, an incarnation may not."""
    holders: dict[str, Holder] = {}
    ready_at: float | None = None
    """When everything was ready for the first time."""
    roll: Roll | None = None
    stop: Stop | None = None
    finished: bool = False

    @property
    def all_ready(self) -> bool:
        listings = self._listings()
        return all(_is_up(child, listings) for child in self.children.values() if child.stays)

    def is_up(self, child: Child) -> bool:
        """Whether a child is ready, and whoever routes knows it."""
        return _is_up(child, self._listings())

    def _listings(self) -> list[frozenset[str]]:
        """The members that each proxy knows."""
        return [self.told(proxy) for proxy in self.proxies if proxy.phase == "ready"]

    @property
    def proxies(self) -> list[Child]:
        """The proxy, and those that it has replaced, that live."""
        return [child for child in self.children.values() if child.role == PROXY and child.lives]

    def told(self, proxy: Child) -> frozenset[str]:
        holder = self.holders.get(proxy.incarnation or "")
        return holder.members if holder else frozenset()

    def in_use(self, child: Child) -> int:
        """Requests that count on a server."""
        return sum(holder.in_use.get(child.incarnation or "", 0) for holder in self.holders.values())

    def is_held(self, child: Child) -> bool:
        """Whether somebody may still route to it, or counts on it."""
        return self.in_use(child) > 0 or any(child.incarnation in h.members for h in self.holders.values())


def _is_up(child: Child, listings: Sequence[frozenset[str]]) -> bool:
    if child.phase != "ready" or child.role == PROXY:
        return child.phase == "ready"
    return all(child.incarnation in members for members in listings)


def initial(run_id: str, roles: Mapping[str, ChildRole], at: float) -> ClusterState:
    """A cluster of which nothing runs yet."""
    children = {name: Child(name=name, role=role) for name, role in roles.items()}
    return ClusterState(run_id=run_id, started_at=at, children=children)


def waits_for(state: ClusterState, child: Child) -> Iterator[str]:
    """Children that must be gone before one may start; one that has been called back is not waited for."""
    return (name for name in child.after if name in state.children and state.children[name].is_going)
