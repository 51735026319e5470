"""The state of a cluster, and how each event changes it: `reduce(state, event) -> state`, pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.events import (
    Abandon,
    Added,
    BackOff,
    Canary,
    ChildRole,
    Event,
    Exited,
    Finish,
    GiveUp,
    Hurry,
    Kill,
    Leave,
    LeaveAsked,
    Noticed,
    Reported,
    RollAsked,
    Rolled,
    RollEnded,
    Spawn,
    Spawned,
    Stall,
    Stay,
    StopAsked,
    Switch,
    Terminate,
    Told,
    Woke,
)
from trtdisagg.supervisor.transitions import forgiven, gone, hurried, never_started, next_child, revived

PROXY = "proxy"
"""The proxy's name among the children. One that was replaced and finishes what it has is `proxy.1`, `proxy.2`, ..."""

_OfAnIncarnation = Spawned | Reported | Exited | Canary | Terminate | Hurry | Kill | Switch
_ChildEvent = _OfAnIncarnation | Spawn | Leave | LeaveAsked | Stay | Stall | BackOff | GiveUp | Abandon


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
    holders: dict[str, Holder] = {}
    ready_at: float | None = None
    """When everything was ready for the first time."""
    roll: Roll | None = None
    stop: Stop | None = None
    finished: bool = False

    @property
    def all_ready(self) -> bool:
        return all(self.is_up(child) for child in self.children.values() if child.stays)

    def is_up(self, child: Child) -> bool:
        """Whether a child is ready, and whoever routes knows it."""
        if child.phase != "ready" or child.role == PROXY:
            return child.phase == "ready"
        return all(child.incarnation in self.told(proxy) for proxy in self.proxies if proxy.phase == "ready")

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


def initial(run_id: str, roles: Mapping[str, ChildRole], at: float) -> ClusterState:
    """A cluster of which nothing runs yet."""
    children = {name: Child(name=name, role=role) for name, role in roles.items()}
    return ClusterState(run_id=run_id, started_at=at, children=children)


def reduce(state: ClusterState, event: Event) -> ClusterState:
    """The state after an event."""
    state = _reduce(event, state)
    if state.ready_at is None and state.all_ready:
        state = replace(state, ready_at=event.at)
    return state


@functools.singledispatch
def _reduce(event: Event, state: ClusterState) -> ClusterState:
    """The state after an event that is about one child."""
    assert isinstance(event, _ChildEvent), event
    child = _meant(state, event)
    if child is None:
        return state  # said by, or of, an incarnation that was given up
    return _with(state, next_child(event, child))


# --- the cluster ----------------------------------------------------------------------------------------------------


@_reduce.register
def _noticed(_event: Noticed, state: ClusterState) -> ClusterState:
    return state


@_reduce.register
def _told(event: Told, state: ClusterState) -> ClusterState:
    return replace(state, holders={**state.holders, event.holder: Holder(event.members, event.in_use)})


@_reduce.register
def _woke(event: Woke, state: ClusterState) -> ClusterState:
    return replace(state, children={c.name: forgiven(c, event) for c in state.children.values()})


@_reduce.register
def _added(event: Added, state: ClusterState) -> ClusterState:
    known = state.children.get(event.name)
    if known is None:
        return _with(state, Child(name=event.name, role=event.role, after=tuple(event.after)))
    rests = not known.lives and known.phase in ("stopped", "failed")
    return _with(state, revived(known)) if rests else state


@_reduce.register
def _roll_asked(event: RollAsked, state: ClusterState) -> ClusterState:
    roll = state.roll or Roll(names=(), timeout_s=event.timeout_s, reason=event.reason)
    more = tuple(name for name in event.names if name not in roll.names)
    return replace(state, roll=replace(roll, names=roll.names + more))


@_reduce.register
def _rolled(_event: Rolled, state: ClusterState) -> ClusterState:
    assert state.roll is not None
    rest = state.roll.names[1:]
    return replace(state, roll=replace(state.roll, names=rest, incarnation=None) if rest else None)


@_reduce.register
def _roll_ended(_event: RollEnded, state: ClusterState) -> ClusterState:
    return replace(state, roll=None)


@_reduce.register
def _stop_asked(event: StopAsked, state: ClusterState) -> ClusterState:
    asked = Stop(
        at=event.at, reason=event.reason, exit_code=event.exit_code, timeout_s=event.timeout_s, force=event.force
    )
    return _stopping(state, asked)


@_reduce.register
def _finish(_event: Finish, state: ClusterState) -> ClusterState:
    return replace(state, finished=True)


def _stopping(state: ClusterState, asked: Stop) -> ClusterState:
    """What waits to be started is not started any more. The first reason to stop stays; later ones can only hurry."""
    children = list(state.children.values())
    if asked.timeout_s is not None:
        children = [hurried(child, asked.at + asked.timeout_s) for child in children]
    if (stop := state.stop) is not None:
        timeouts = [s.timeout_s for s in (stop, asked) if s.timeout_s is not None]
        stop = replace(stop, force=stop.force or asked.force, timeout_s=min(timeouts, default=None))
    else:
        children = [c if c.lives or c.phase == "failed" else never_started(c) for c in children]
    return replace(state, stop=stop or asked, roll=None, children={child.name: child for child in children})


# --- one child ------------------------------------------------------------------------------------------------------


def _meant(state: ClusterState, event: _ChildEvent) -> Child | None:
    """The child of an event: of one about an incarnation, whoever bears that now."""
    child = state.children.get(event.name)
    if not isinstance(event, _OfAnIncarnation) or (child is not None and child.incarnation == event.incarnation):
        return child
    return next((c for c in state.children.values() if c.incarnation == event.incarnation), None)


@_reduce.register
def _exited(event: Exited, state: ClusterState) -> ClusterState:
    child = _meant(state, event)
    if child is None:
        return state
    state = replace(state, holders={name: h for name, h in state.holders.items() if name != child.incarnation})
    if child.leaving is not None and child.leaving.then == "gone":
        return _without(state, child.name)
    if state.stop is None:
        return _with(state, next_child(event, child))
    phase, reason = ("failed", child.reason) if child.phase == "failed" else ("stopped", event.how)
    return _with(state, replace(gone(child), phase=phase, reason=reason, last_lines=event.last_lines))


@_reduce.register
def _leave(event: Leave, state: ClusterState) -> ClusterState:
    """One that is the next to be restarted is on its way."""
    incarnation = state.children[event.name].incarnation or ""
    if state.roll and state.roll.names[0] == event.name:
        state = replace(state, roll=replace(state.roll, incarnation=incarnation))
    return _on_its_way(event, state)


@_reduce.register
def _leave_asked(event: LeaveAsked, state: ClusterState) -> ClusterState:
    return _on_its_way(event, state)


def _on_its_way(event: Leave | LeaveAsked, state: ClusterState) -> ClusterState:
    child = state.children[event.name]
    if child.role == PROXY and event.then == "restart" and child.lives:
        return _replaced(state, child, event)
    if event.then == "gone" and not child.lives:
        return _without(state, child.name)
    return _with(state, next_child(event, child))


@_reduce.register
def _give_up(event: GiveUp, state: ClusterState) -> ClusterState:
    child = state.children[event.name]
    state = _with(state, next_child(event, child))
    if _can_do_without(state, child):
        return state
    return _stopping(state, Stop(at=event.at, reason=event.reason, exit_code=event.exit_code))


@_reduce.register
def _abandon(event: Abandon, state: ClusterState) -> ClusterState:
    child = next_child(event, state.children[event.name])
    stop = Stop(at=event.at, reason=f"{child.name} {child.reason}", exit_code=1)
    return _stopping(_with(state, child), stop)


def _replaced(state: ClusterState, proxy: Child, event: Leave | LeaveAsked) -> ClusterState:
    """A new proxy is started beside the old one, which ends when the new one is ready: clients see no gap."""
    old = next_child(event, replace(proxy, name=f"{proxy.name}.{proxy.num_starts}"))
    assert old.leaving is not None
    old = replace(old, is_wanted=False, leaving=replace(old.leaving, then="gone"))
    new = Child(name=proxy.name, role=proxy.role, num_starts=proxy.num_starts, ever_ready=proxy.ever_ready)
    return replace(state, children={**state.children, new.name: new, old.name: old})


def _can_do_without(state: ClusterState, failed: Child) -> bool:
    """Whether requests can be answered without it, once the cluster has been up."""
    if state.ready_at is None or failed.role == PROXY:
        return False
    others = (c for c in state.children.values() if c.name != failed.name and c.is_wanted and c.phase != "failed")
    return any(c.role in ("generation", "both") for c in others)


def _with(state: ClusterState, child: Child) -> ClusterState:
    return replace(state, children={**state.children, child.name: child})


def _without(state: ClusterState, name: str) -> ClusterState:
    return replace(state, children={n: c for n, c in state.children.items() if n != name})


def waits_for(state: ClusterState, child: Child) -> Iterator[str]:
    """Children that must be gone before one may start."""
    return (name for name in child.after if name in state.children and state.children[name].lives)
