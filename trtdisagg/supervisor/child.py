"""The state of one child, a server or the proxy, and how each event changes it. Pure.

    starting -> loading -> ready <-> stalled        a live child (it has an incarnation)
        ^                    |
        +---- backoff <------+ died                 no process
    any live one -> draining | stopping -> stopped | failed

A child has at most one incarnation at a time: the next is spawned only after the last has exited with all it started.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.control import ServerState
from trtdisagg.protocol.spec import Beat, Failed, Loading, Ready, Report, Stats
from trtdisagg.supervisor.events import (
    Abandon,
    BackOff,
    Event,
    Exited,
    GiveUp,
    Kill,
    Reported,
    Spawn,
    Spawned,
    Stall,
    Terminate,
    Woke,
)

_NUM_BEATS_KEPT = 10


class Sample(msgspec.Struct, frozen=True):
    """Token counters at one beat, from which rates are made."""

    at: float
    num_prompt_tokens: int
    num_generation_tokens: int


class Child(msgspec.Struct, kw_only=True, frozen=True):
    """A server, or the proxy, through all its incarnations."""

    name: str
    phase: ServerState = "starting"
    reason: str | None = None
    num_starts: int = 0
    deaths: tuple[float, ...] = ()
    """When it ended without being asked to."""
    retry_at: float | None = None
    last_lines: list[str] = []
    """What the last incarnation said at its end."""
    ever_ready: bool = False

    # Of the incarnation that lives now:
    incarnation: str | None = None
    """None: no process of this name exists."""
    pid: int | None = None
    started_at: float = 0.0
    ready_at: float | None = None
    ready: Ready | None = None
    beat_at: float = 0.0
    stats: Stats = Stats()
    samples: tuple[Sample, ...] = ()
    failure: Failed | None = None
    """What it reported before its end."""
    failed_at: float | None = None
    term_at: float | None = None
    kill_at: float | None = None

    @property
    def lives(self) -> bool:
        return self.incarnation is not None


@functools.singledispatch
def next_child(event: Event, child: Child) -> Child:
    """The child after an event that is about it."""
    raise AssertionError(f"no rule for {event} on {child}")


@next_child.register
def _spawn(event: Spawn, child: Child) -> Child:
    assert not child.lives, f"{child.name} lives already"
    return Child(
        name=child.name,
        reason=child.reason,
        num_starts=child.num_starts + 1,
        deaths=child.deaths,
        ever_ready=child.ever_ready,
        incarnation=event.incarnation,
        started_at=event.at,
    )


@next_child.register
def _spawned(event: Spawned, child: Child) -> Child:
    return replace(child, pid=event.pid)


@next_child.register
def _reported(event: Reported, child: Child) -> Child:
    return _heard(event.report, child, event.at)


@next_child.register
def _exited(event: Exited, child: Child) -> Child:
    if child.failure is not None:
        reason = child.failure.message
    elif child.kill_at is not None:
        reason = child.reason or event.how
    else:
        reason = event.how
    deaths = (*child.deaths, event.at)
    return replace(_gone(child), phase="backoff", reason=reason, deaths=deaths, last_lines=event.last_lines)


@next_child.register
def _terminate(event: Terminate, child: Child) -> Child:
    if child.phase == "failed":
        return replace(child, term_at=event.at)
    return replace(child, phase="draining", term_at=event.at)


@next_child.register
def _kill(event: Kill, child: Child) -> Child:
    if child.phase == "failed":
        return replace(child, kill_at=event.at)
    return replace(child, phase="stopping", reason=event.reason, kill_at=event.at)


@next_child.register
def _stall(_event: Stall, child: Child) -> Child:
    return replace(child, phase="stalled", reason="no sign of life")


@next_child.register
def _back_off(event: BackOff, child: Child) -> Child:
    return replace(child, retry_at=event.until)


@next_child.register
def _give_up(event: GiveUp, child: Child) -> Child:
    return replace(child, phase="failed", reason=event.reason.splitlines()[0], retry_at=None)


@next_child.register
def _abandon(_event: Abandon, child: Child) -> Child:
    return replace(_gone(child), phase="failed", reason="hangs in the kernel and cannot be killed")


def asked_exit(event: Exited, child: Child) -> Child:
    """The end of a child while the cluster goes down: stopped, whatever its status."""
    phase: ServerState = "failed" if child.phase == "failed" else "stopped"
    return replace(_gone(child), phase=phase, reason=child.reason if phase == "failed" else event.how)


def forgiven(child: Child, event: Woke) -> Child:
    """Time that the agent did not live through counts against nobody."""
    return replace(child, beat_at=event.at, started_at=child.started_at + event.late_s)


def never_started(child: Child) -> Child:
    """It waited to be started, and is not going to be."""
    return replace(child, phase="stopped", reason=None, retry_at=None)


def _gone(child: Child) -> Child:
    return replace(
        child, incarnation=None, pid=None, ready=None, ready_at=None, stats=Stats(), samples=(), term_at=None
    )


# --- what a child says ----------------------------------------------------------------------------------------------


def _heard(report: Report, child: Child, at: float) -> Child:
    child = replace(child, beat_at=at)
    match report:
        case Loading(stage=stage):
            return replace(child, phase="loading", reason=stage) if child.phase in ("starting", "loading") else child
        case Ready():
            return _became_ready(report, child, at)
        case Beat(stats=stats):
            return _beaten(stats, child, at)
        case Failed():
            return replace(child, failure=report, failed_at=at)


def _became_ready(ready: Ready, child: Child, at: float) -> Child:
    if child.phase not in ("starting", "loading"):
        return child
    return replace(child, phase="ready", reason=None, ready=ready, ready_at=at, ever_ready=True)


def _beaten(stats: Stats, child: Child, at: float) -> Child:
    sample = Sample(at, stats.num_prompt_tokens_total, stats.num_generation_tokens_total)
    child = replace(child, stats=stats, samples=(*child.samples, sample)[-_NUM_BEATS_KEPT:])
    return replace(child, phase="ready", reason=None) if child.phase == "stalled" else child
