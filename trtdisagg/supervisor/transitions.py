"""How each event changes one child: `next_child(event, child) -> child`, pure."""

from __future__ import annotations

import functools

from msgspec.structs import replace

from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.changes import gone, never_started, revived
from trtdisagg.supervisor.child import NUM_CANARIES_MISSED, Child, Leaving, Meeting
from trtdisagg.supervisor.events import (
    Abandon,
    BackOff,
    Canary,
    Event,
    Exited,
    GiveUp,
    Hurry,
    Introduce,
    Kill,
    Leave,
    LeaveAsked,
    Reported,
    Spawn,
    Spawned,
    Stall,
    Stay,
    Switch,
    Terminate,
    Unmet,
)
from trtdisagg.supervisor.hearing import heard, linked, recovered


@functools.singledispatch
def next_child(event: Event, child: Child) -> Child:
    """The child after an event that is about it."""
    raise AssertionError(f"no rule for {event} on {child}")


@next_child.register
def _spawn(event: Spawn, child: Child) -> Child:
    assert not child.lives, f"{child.name} lives already"
    return Child(
        name=child.name,
        role=child.role,
        reason=child.reason if child.ever_ready else None,
        num_starts=child.num_starts + 1,
        crashes=child.crashes,
        ever_ready=child.ever_ready,
        history=child.history,
        incarnation=event.incarnation,
        started_at=event.at,
    )


@next_child.register
def _spawned(event: Spawned, child: Child) -> Child:
    return replace(child, pid=event.pid, pids=tuple(event.pids))


@next_child.register
def _reported(event: Reported, child: Child) -> Child:
    return heard(event.report, child, event.at)


@next_child.register
def _exited(event: Exited, child: Child) -> Child:
    """It ended: as it was asked to, whatever its status, or by itself."""
    if child.leaving is not None:
        return _left(event, child, child.leaving)
    if child.phase == "failed":
        return replace(gone(child), last_lines=event.last_lines)
    reason = child.failure.message if child.failure else event.how
    if child.kill_at is not None and not child.failure:
        reason = child.reason or event.how
    crashes = (*child.crashes, event.at)
    return replace(gone(child), phase="backoff", reason=reason, crashes=crashes, last_lines=event.last_lines)


def _left(event: Exited, child: Child, leaving: Leaving) -> Child:
    child = gone(child)
    match leaving.then:
        case "restart" | "switch":
            return replace(revived(child), reason=leaving.reason, role=leaving.role or child.role)
        case "stop" | "gone" | "end":
            return replace(child, phase="stopped", reason=event.how, is_wanted=False)


@next_child.register
def _leave_asked(event: LeaveAsked, child: Child) -> Child:
    return _leave_for(event, child, event.role)


@next_child.register
def _leave(event: Leave, child: Child) -> Child:
    return _leave_for(event, child)


def _leave_for(asked: Leave | LeaveAsked, child: Child, role: Role | None = None) -> Child:
    """What does not live is at its goal at once."""
    if child.lives:
        return _draining(child, asked, role)
    match asked.then:
        case "restart":
            return revived(child)
        case "switch":
            return replace(child, role=role or child.role)
        case "stop" | "gone" | "end":
            return replace(never_started(child), is_wanted=False)


def _draining(child: Child, asked: Leave | LeaveAsked, role: Role | None) -> Child:
    """A second wish changes the goal, and may only bring the deadline nearer."""
    leaving = Leaving(at=asked.at, then=asked.then, deadline=asked.at + asked.timeout_s, reason=asked.reason, role=role)
    if child.leaving is not None:
        leaving = replace(leaving, deadline=min(child.leaving.deadline, leaving.deadline))
    if child.phase in ("failed", "stopping"):
        return replace(child, leaving=leaving)
    return replace(child, phase="draining", reason=asked.reason, leaving=leaving)


@next_child.register
def _terminate(event: Terminate, child: Child) -> Child:
    return replace(child, term_at=event.at)


@next_child.register
def _hurry(event: Hurry, child: Child) -> Child:
    return replace(child, phase="stopping", reason="the deadline of the drain has passed", hurry_at=event.at)


@next_child.register
def _kill(event: Kill, child: Child) -> Child:
    if child.phase == "failed":
        return replace(child, kill_at=event.at)
    return replace(child, phase="stopping", reason=event.reason, kill_at=event.at)


@next_child.register
def _switch(event: Switch, child: Child) -> Child:
    return replace(child, switch_at=event.at)


@next_child.register
def _introduce(event: Introduce, child: Child) -> Child:
    new = {peer.incarnation: Meeting(peer=peer, asked_at=event.at) for peer in event.peers}
    return replace(child, meetings={**child.meetings, **new})


@next_child.register
def _unmet(event: Unmet, child: Child) -> Child:
    error = f"they have not met within {event.at - child.meetings[event.peer].asked_at:.0f} s"
    return linked(Linked(server=event.server, incarnation=event.peer, error=error), child)


@next_child.register
def _stay(_event: Stay, child: Child) -> Child:
    return replace(child, phase="ready", reason=None, leaving=None)


@next_child.register
def _stall(event: Stall, child: Child) -> Child:
    return replace(child, phase="stalled", reason=event.reason)


@next_child.register
def _canary(event: Canary, child: Child) -> Child:
    if event.error is None:
        return recovered(replace(child, num_canaries_missed=0, mute_at=None), event.at)
    num_missed = child.num_canaries_missed + 1
    mute_at = event.at if num_missed == NUM_CANARIES_MISSED else child.mute_at
    return replace(child, num_canaries_missed=num_missed, mute_at=mute_at)


@next_child.register
def _back_off(event: BackOff, child: Child) -> Child:
    return replace(child, retry_at=event.until, crashes=child.crashes[-event.num_crashes :])


@next_child.register
def _give_up(event: GiveUp, child: Child) -> Child:
    return replace(child, phase="failed", reason=event.reason.splitlines()[0], retry_at=None)


@next_child.register
def _abandon(_event: Abandon, child: Child) -> Child:
    return replace(gone(child), phase="failed", reason="hangs in the kernel and cannot be killed")
