"""How what a child says changes it: `heard(report, child, at) -> child`, pure."""

from __future__ import annotations

from msgspec.structs import replace

from trtdisagg.protocol.reports import Beat, Failed, Linked, Loading, Ready, Report
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.child import STALE_S, Child
from trtdisagg.supervisor.history import History, counted


def heard(report: Report, child: Child, at: float) -> Child:
    """The child after a report of its."""
    match report:
        case Beat():
            return _beaten(report, child, at)
        case Loading(stage=stage):
            child = replace(child, beat_at=at)
            return replace(child, phase="loading", reason=stage) if child.phase in ("starting", "loading") else child
        case Ready():
            return _became_ready(report, child, at)
        case Failed():
            return replace(child, failure=report, failed_at=at)
        case Linked():
            return linked(report, child)


def linked(report: Linked, child: Child) -> Child:
    """One that has gone meanwhile is nobody to have met."""
    meeting = child.meetings.get(report.incarnation)
    if meeting is None:
        return child
    return replace(child, meetings={**child.meetings, report.incarnation: replace(meeting, link=report)})


def _became_ready(ready: Ready, child: Child, at: float) -> Child:
    """It has the role that it says it has, whatever was wanted of it."""
    child = _in_role(replace(child, beat_at=at, progress_at=at), ready.role)
    if child.phase in ("starting", "loading"):
        child = replace(child, num_canaries_missed=0, mute_at=None)
        return replace(child, phase="ready", reason=None, ready=ready, ready_at=at, in_role_at=at, ever_ready=True)
    if child.switch_at is None or (leaving := child.leaving) is None:
        return child
    child = replace(child, ready=ready, switch_at=None, in_role_at=at)
    is_there = leaving.then == "switch" and leaving.role == child.role
    return replace(child, phase="ready", reason=None, leaving=None) if is_there else child


def _in_role(child: Child, role: Role | None) -> Child:
    """What counts for one role says nothing about another: a new one has a new history."""
    if role is None or child.role in (role, "proxy"):
        return child
    return replace(child, role=role, history=History())


def _beaten(beat: Beat, child: Child, at: float) -> Child:
    gets_on = beat.progress != child.progress or not beat.is_working
    child = replace(
        child,
        beat_at=at,
        progress=beat.progress,
        progress_at=at if gets_on else child.progress_at,
        stats=beat.stats,
        window=child.window.add(at, beat.stats),
        history=child.history.add(at, counted(child.role, beat.stats)),
    )
    return recovered(child, at)


def recovered(child: Child, at: float) -> Child:
    """One that was stalled is ready again when all three signs of life are there."""
    is_fresh = at - child.beat_at < STALE_S and child.gets_on
    if child.phase != "stalled" or not is_fresh or child.mute_at is not None:
        return child
    return replace(child, phase="ready", reason=None)
