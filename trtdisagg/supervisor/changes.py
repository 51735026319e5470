"""What can become of a child by more than one kind of event, and what events about others do to it. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.child import Child, Leaving
from trtdisagg.supervisor.events import Woke
from trtdisagg.supervisor.rates import Window


def forgiven(child: Child, event: Woke) -> Child:
    """Time that the agent did not live through counts against nobody."""
    return replace(
        child,
        beat_at=event.at,
        progress_at=event.at,
        num_canaries_missed=0,
        mute_at=None,
        started_at=child.started_at + event.late_s,
        failed_at=_later(child.failed_at, event.late_s),
        term_at=_later(child.term_at, event.late_s),
        hurry_at=_later(child.hurry_at, event.late_s),
        kill_at=_later(child.kill_at, event.late_s),
        switch_at=_later(child.switch_at, event.late_s),
        meetings={i: replace(m, asked_at=m.asked_at + event.late_s) for i, m in child.meetings.items()},
    )


def _later(at: float | None, by_s: float) -> float | None:
    return None if at is None else at + by_s


def alone(child: Child, incarnation: str) -> Child:
    """One that it may have met is gone."""
    if incarnation not in child.meetings:
        return child
    return replace(child, meetings={i: meeting for i, meeting in child.meetings.items() if i != incarnation})


def revived(child: Child) -> Child:
    """It starts as if it had never died."""
    assert not child.lives
    return replace(child, phase="starting", reason=None, retry_at=None, crashes=(), is_wanted=True)


def hurried(child: Child, deadline: float) -> Child:
    """One that leaves has to do so sooner."""
    if child.leaving is None or child.leaving.deadline <= deadline:
        return child
    return replace(child, leaving=replace(child.leaving, deadline=deadline))


def called_back(child: Child, at: float) -> Child:
    """It is about to go, or has failed and is killed: it starts again after that."""
    assert child.lives
    if child.leaving is not None:
        return replace(child, leaving=replace(child.leaving, then="restart"))
    leaving = Leaving(at=at, then="restart", deadline=at, reason="starts again")
    return replace(child, phase="stopping", reason=leaving.reason, leaving=leaving)


def never_started(child: Child) -> Child:
    """It waited to be started, and is not going to be."""
    return replace(child, phase="stopped", reason=None, retry_at=None)


def gone(child: Child) -> Child:
    """The child without a process."""
    return replace(
        child,
        incarnation=None,
        pid=None,
        pids=(),
        ready=None,
        ready_at=None,
        meetings={},
        stats=Stats(),
        window=Window(),
        leaving=None,
        term_at=None,
        hurry_at=None,
        switch_at=None,
    )
