"""The state of a cluster, and how each event changes it: `reduce(state, event) -> state`, pure.

    starting -> loading -> ready <-> stalled        a live child (it has an incarnation)
        ^                    |
        +---- backoff <------+ died                 no process
    any live one -> draining | stopping -> stopped | failed

A child has at most one incarnation at a time: the next is spawned only after the last has exited with all it started.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.control import ServerState
from trtdisagg.protocol.spec import Beat, Failed, Loading, Ready, Report, Stats
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
            return replace(state, children={c.name: _forgiven(c, event) for c in state.children.values()})
        case Finish():
            return replace(state, finished=True)


def _forgiven(child: Child, event: Woke) -> Child:
    """Time that the agent did not live through counts against nobody."""
    return replace(child, beat_at=event.at, started_at=child.started_at + event.late_s)


def _stopping(state: ClusterState, asked: Stop) -> ClusterState:
    """What waits to be started is not started any more. The first reason to stop stays; later ones can only hurry."""
    if state.stop is not None:
        timeouts = [t for t in (state.stop.timeout_s, asked.timeout_s) if t is not None]
        hurried = replace(state.stop, force=state.stop.force or asked.force, timeout_s=min(timeouts, default=None))
        return replace(state, stop=hurried)
    children = {c.name: c if c.lives or c.phase == "failed" else _stopped(c) for c in state.children.values()}
    return replace(state, stop=asked, children=children)


def _stopped(child: Child) -> Child:
    return replace(child, phase="stopped", reason=None, retry_at=None)


# --- one child ------------------------------------------------------------------------------------------------------

_ChildEvent = Spawned | Reported | Exited | Spawn | Terminate | Kill | Stall | BackOff | GiveUp | Abandon


def _reduce_child(state: ClusterState, event: _ChildEvent) -> ClusterState:
    child = state.children[event.name]
    if isinstance(event, Spawned | Reported | Exited) and event.incarnation != child.incarnation:
        return state  # said by, or of, an incarnation that was given up
    was_asked = state.stop is not None
    child = _asked_exit(event, child) if was_asked and isinstance(event, Exited) else _next(event, child)
    state = replace(state, children={**state.children, child.name: child})
    if child.name == PROXY and not child.lives:
        state = replace(state, routed=frozenset())
    if isinstance(event, GiveUp):
        state = _stopping(state, Stop(reason=event.reason, exit_code=event.exit_code))
    if isinstance(event, Abandon):
        state = _stopping(state, Stop(reason=f"{child.name} {child.reason}", exit_code=1))
    return state


def _asked_exit(event: Exited, child: Child) -> Child:
    """The end of a child while the cluster goes down: stopped, whatever its status."""
    phase: ServerState = "failed" if child.phase == "failed" else "stopped"
    return replace(_gone(child), phase=phase, reason=child.reason if phase == "failed" else event.how)


def _gone(child: Child) -> Child:
    return replace(
        child, incarnation=None, pid=None, ready=None, ready_at=None, stats=Stats(), samples=(), term_at=None
    )


@functools.singledispatch
def _next(event: Event, child: Child) -> Child:
    raise AssertionError(f"no rule for {event} on {child}")


@_next.register
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


@_next.register
def _spawned(event: Spawned, child: Child) -> Child:
    return replace(child, pid=event.pid)


@_next.register
def _reported(event: Reported, child: Child) -> Child:
    return _heard(event.report, child, event.at)


@_next.register
def _exited(event: Exited, child: Child) -> Child:
    if child.failure is not None:
        reason = child.failure.message
    elif child.kill_at is not None:
        reason = child.reason or event.how
    else:
        reason = event.how
    deaths = (*child.deaths, event.at)
    return replace(_gone(child), phase="backoff", reason=reason, deaths=deaths, last_lines=event.last_lines)


@_next.register
def _terminate(event: Terminate, child: Child) -> Child:
    if child.phase == "failed":
        return replace(child, term_at=event.at)
    return replace(child, phase="draining", term_at=event.at)


@_next.register
def _kill(event: Kill, child: Child) -> Child:
    if child.phase == "failed":
        return replace(child, kill_at=event.at)
    return replace(child, phase="stopping", reason=event.reason, kill_at=event.at)


@_next.register
def _stall(_event: Stall, child: Child) -> Child:
    return replace(child, phase="stalled", reason="no sign of life")


@_next.register
def _back_off(event: BackOff, child: Child) -> Child:
    return replace(child, retry_at=event.until)


@_next.register
def _give_up(event: GiveUp, child: Child) -> Child:
    return replace(child, phase="failed", reason=event.reason.splitlines()[0], retry_at=None)


@_next.register
def _abandon(_event: Abandon, child: Child) -> Child:
    return replace(_gone(child), phase="failed", reason="hangs in the kernel and cannot be killed")


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
