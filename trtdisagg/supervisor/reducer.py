"""How each event changes the state of a cluster: `reduce(state, event) -> state`, pure."""

from __future__ import annotations

import functools

from msgspec.structs import replace

from trtdisagg.supervisor.changes import alone, called_back, forgiven, gone, hurried, never_started, revived
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.events import (
    Abandon,
    Added,
    BackOff,
    Canary,
    Event,
    Exited,
    Finish,
    GiveUp,
    Hurry,
    Introduce,
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
    Unmet,
    Woke,
)
from trtdisagg.supervisor.state import PROXY, ClusterState, Holder, Roll, Stop, is_replaced
from trtdisagg.supervisor.transitions import next_child

_OfAnIncarnation = Spawned | Reported | Exited | Canary | Terminate | Hurry | Kill | Switch | Introduce | Unmet
_ChildEvent = _OfAnIncarnation | Spawn | Leave | LeaveAsked | Stay | Stall | BackOff | GiveUp | Abandon


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
    is_ours = event.holder.startswith(f"{state.run_id}.")
    if is_ours and all(proxy.incarnation != event.holder for proxy in state.proxies):
        return state  # a last word of one that is gone, which would hold on to servers for ever
    return replace(state, holders={**state.holders, event.holder: Holder(event.members, event.in_use)})


@_reduce.register
def _woke(event: Woke, state: ClusterState) -> ClusterState:
    return replace(state, children={c.name: forgiven(c, event) for c in state.children.values()})


@_reduce.register
def _added(event: Added, state: ClusterState) -> ClusterState:
    known = state.children.get(event.name)
    if state.stop is not None:
        return state
    if known is None:
        num_starts = state.num_forgotten_starts.get(event.name, 0)
        return _with(state, Child(name=event.name, role=event.role, after=tuple(event.after), num_starts=num_starts))
    if known.is_going:
        return _with(state, called_back(known, event.at))
    if known.phase in ("stopped", "failed"):
        return _with(state, replace(revived(known), role=event.role, after=tuple(event.after)))
    return state


@_reduce.register
def _roll_asked(event: RollAsked, state: ClusterState) -> ClusterState:
    """One whose turn has come and gone is restarted once more: what it shall start with may have changed."""
    if state.stop is not None or not event.names:
        return state
    roll = state.roll or Roll(names=(), timeout_s=event.timeout_s, reason=event.reason)
    waiting = roll.names[1:] if _has_started_again(state, roll) else roll.names
    more = tuple(name for name in dict.fromkeys(event.names) if name not in waiting)
    return replace(state, roll=replace(roll, names=roll.names + more))


def _has_started_again(state: ClusterState, roll: Roll) -> bool:
    """Whether the first is past its restart, and only not up yet."""
    child = state.children.get(roll.names[0]) if roll.names else None
    return roll.incarnation is not None and child is not None and child.incarnation not in (None, roll.incarnation)


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
    state = _let_go(state, child)
    if is_replaced(child) or (child.leaving is not None and child.leaving.then == "gone"):
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
    """A cluster that goes down, and a proxy that has a successor, take no other wish."""
    child = state.children.get(event.name)
    if state.stop is not None or child is None or is_replaced(child):
        return state
    if state.roll is not None and event.then in ("stop", "gone"):
        first, *others = state.roll.names
        state = replace(state, roll=replace(state.roll, names=(first, *(n for n in others if n != event.name))))
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
    child = next_child(event, state.children[event.name])
    return _failed(state, child, Stop(at=event.at, reason=event.reason, exit_code=event.exit_code))


@_reduce.register
def _abandon(event: Abandon, state: ClusterState) -> ClusterState:
    state = _let_go(state, state.children[event.name])
    child = next_child(event, state.children[event.name])
    if is_replaced(child):
        return _without(state, child.name)
    return _failed(state, child, Stop(at=event.at, reason=f"{child.name} {child.reason}", exit_code=1))


def _failed(state: ClusterState, child: Child, stop: Stop) -> ClusterState:
    """The cluster goes on if it can."""
    state = _with(state, child)
    return state if _can_do_without(state, child) else _stopping(state, stop)


def _let_go(state: ClusterState, child: Child) -> ClusterState:
    """A holder that is gone holds nothing, and nobody has met it."""
    incarnation = child.incarnation or ""
    return replace(
        state,
        holders={name: h for name, h in state.holders.items() if name != incarnation},
        children={name: alone(other, incarnation) for name, other in state.children.items()},
    )


def _replaced(state: ClusterState, proxy: Child, event: Leave | LeaveAsked) -> ClusterState:
    """A new proxy is started beside the old one, which ends when the new one is ready: clients see no gap."""
    old = next_child(event, replace(proxy, name=f"{proxy.name}.{proxy.num_starts}"))
    assert old.leaving is not None
    old = replace(old, is_wanted=False, leaving=replace(old.leaving, then="gone"))
    new = Child(
        name=proxy.name,
        role=proxy.role,
        num_starts=proxy.num_starts,
        ever_ready=proxy.ever_ready,
        history=proxy.history,
    )
    return replace(state, children={**state.children, new.name: new, old.name: old})


def _can_do_without(state: ClusterState, failed: Child) -> bool:
    """Whether requests can be answered without it, once the cluster has been up."""
    if state.ready_at is None:
        return False
    others = [c for c in state.children.values() if c.name != failed.name and c.stays and c.phase != "failed"]
    if failed.role == PROXY:
        return any(c.role == PROXY for c in others)
    return any(c.role in ("generation", "both") for c in others)


def _with(state: ClusterState, child: Child) -> ClusterState:
    return replace(state, children={**state.children, child.name: child})


def _without(state: ClusterState, name: str) -> ClusterState:
    """A proxy that was replaced needs no counting: its successor has gone on from there."""
    starts = state.num_forgotten_starts
    if not is_replaced(state.children[name]):
        starts = {**starts, name: state.children[name].num_starts}
    children = {n: c for n, c in state.children.items() if n != name}
    return replace(state, children=children, num_forgotten_starts=starts)
