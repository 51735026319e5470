"""The state of a cluster, and how each event changes it: `reduce(state, event) -> state`, pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from trtdisagg.supervisor.child import Child, asked_exit, forgiven, never_started, next_child
from trtdisagg.supervisor.events import (
    Abandon,
    BackOff,
    Event,
    Exited,
    Finish,
    GiveUp,
    Kill,
    Noticed,
    Reported,
    Routed,
    Spawn,
    Spawned,
    Stall,
    StopAsked,
    Terminate,
    Woke,
)

PROXY = "proxy"
"""The proxy's name among the children."""

_ChildEvent = Spawned | Reported | Exited | Spawn | Terminate | Kill | Stall | BackOff | GiveUp | Abandon


class Stop(msgspec.Struct, kw_only=True, frozen=True):
    """The cluster is going down."""

    reason: str
    exit_code: int
    timeout_s: float | None = None
    force: bool = False


class ClusterState(msgspec.Struct, kw_only=True, frozen=True):
    run_id: str
    started_at: float
    children: dict[str, Child]
    """By name; never changed in place."""
    routed: frozenset[str] = frozenset()
    """Servers that the proxy has taken over as members."""
    ready_at: float | None = None
    """When everything was ready for the first time."""
    stop: Stop | None = None
    finished: bool = False

    @property
    def all_ready(self) -> bool:
        ready = {c.name for c in self.children.values() if c.phase == "ready"}
        servers = self.children.keys() - {PROXY}
        return ready == self.children.keys() and (PROXY not in self.children or servers <= self.routed)


def initial(run_id: str, names: Iterable[str], at: float) -> ClusterState:
    """A cluster of which nothing runs yet."""
    return ClusterState(run_id=run_id, started_at=at, children={name: Child(name=name) for name in names})


def reduce(state: ClusterState, event: Event) -> ClusterState:
    """The state after an event."""
    match event:
        case Noticed():
            return state
        case Routed() | StopAsked() | Woke() | Finish():
            state = _reduce_cluster(state, event)
        case _:
            state = _reduce_child(state, event)
    if state.ready_at is None and state.all_ready:
        state = replace(state, ready_at=event.at)
    return state


# --- the cluster ----------------------------------------------------------------------------------------------------


def _reduce_cluster(state: ClusterState, event: Routed | StopAsked | Woke | Finish) -> ClusterState:
    match event:
        case Routed(names=names):
            return replace(state, routed=frozenset(names))
        case StopAsked():
            asked = Stop(reason=event.reason, exit_code=event.exit_code, timeout_s=event.timeout_s, force=event.force)
            return _stopping(state, asked)
        case Woke():
            return replace(state, children={c.name: forgiven(c, event) for c in state.children.values()})
        case Finish():
            return replace(state, finished=True)


def _stopping(state: ClusterState, asked: Stop) -> ClusterState:
    """What waits to be started is not started any more. The first reason to stop stays; later ones can only hurry."""
    if state.stop is not None:
        timeouts = [t for t in (state.stop.timeout_s, asked.timeout_s) if t is not None]
        hurried = replace(state.stop, force=state.stop.force or asked.force, timeout_s=min(timeouts, default=None))
        return replace(state, stop=hurried)
    children = {c.name: c if c.lives or c.phase == "failed" else never_started(c) for c in state.children.values()}
    return replace(state, stop=asked, children=children)


# --- one child ------------------------------------------------------------------------------------------------------


def _reduce_child(state: ClusterState, event: _ChildEvent) -> ClusterState:
    child = state.children[event.name]
    if isinstance(event, Spawned | Reported | Exited) and event.incarnation != child.incarnation:
        return state  # said by, or of, an incarnation that was given up
    if isinstance(event, Exited) and state.stop is not None:
        child = asked_exit(event, child)
    else:
        child = next_child(event, child)
    state = replace(state, children={**state.children, child.name: child})
    if child.name == PROXY and not child.lives:
        state = replace(state, routed=frozenset())
    if isinstance(event, GiveUp):
        state = _stopping(state, Stop(reason=event.reason, exit_code=event.exit_code))
    if isinstance(event, Abandon):
        state = _stopping(state, Stop(reason=f"{child.name} {child.reason}", exit_code=1))
    return state
