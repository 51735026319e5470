"""What is to be done, and when: a pure function of the state.

`agenda` lists every action the state calls for, each with the time at which it is due. What is due now is done; the
earliest of the others says how long the agent may sleep. There is no other timer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.errors import CrashLoopError, NotReadyInTimeError, StartupError
from trtdisagg.supervisor.child import STALE_S, STUCK_S, Child, Leaving
from trtdisagg.supervisor.events import (
    Abandon,
    Action,
    BackOff,
    Finish,
    GiveUp,
    Hurry,
    Kill,
    Leave,
    Rolled,
    RollEnded,
    Spawn,
    Stall,
    Stay,
    Switch,
    Terminate,
)
from trtdisagg.supervisor.links import introductions
from trtdisagg.supervisor.state import PROXY, ClusterState, Roll, Stop, current_name, is_replaced, waits_for

UNDEAD_S = 20.0
"""From SIGKILL until a child that is still there is left alone."""
AFTER_PROXY_S = 1.0
"""When the last proxy of a cluster that goes down is gone, nobody comes for what its servers still hold."""


def decide(state: ClusterState, rules: SupervisionConfig, now: float) -> Action | None:
    """One action that is due, with `at` = now; to be asked again when that is reduced into the state."""
    return next((replace(action, at=now) for action in agenda(state, rules) if action.at <= now), None)


def next_wake(state: ClusterState, rules: SupervisionConfig) -> float | None:
    """When the next action is due, if nothing happens before; None: only an event can change anything."""
    return min((action.at for action in agenda(state, rules)), default=None)


def agenda(state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    """Every action the state calls for, with the time at which it is due."""
    if state.finished:
        return
    if state.stop is not None:
        yield from _stopping(state, state.stop, rules)
    elif state.roll is not None:
        yield from _rolling(state, state.roll)
    if state.stop is None:
        yield from introductions(state)
    for child in state.children.values():
        if child.lives:
            yield from _living(child, state, rules)
        elif state.stop is None and child.is_wanted:
            yield from _reviving(child, state, rules)


def _living(child: Child, state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    if child.kill_at is not None:
        yield Abandon(at=child.kill_at + UNDEAD_S, name=child.name)
    elif state.stop is not None and state.stop.force:
        yield _kill(child, state.stop.at, state.stop.reason)
    elif child.phase == "failed" and child.leaving is None:
        yield _kill(child, child.started_at, child.reason or "failed")
    elif child.leaving is not None:
        yield from _leaving(child, child.leaving, state, rules)
    else:
        yield from _watching(child, rules)


def _kill(child: Child, at: float, reason: str) -> Action:
    return Kill(at=at, name=child.name, incarnation=child.incarnation or "", reason=reason)


# --- keeping it up --------------------------------------------------------------------------------------------------


def _watching(child: Child, rules: SupervisionConfig) -> Iterator[Action]:
    """A child that lives has to become ready, to show that it is alive, and to end when it says that it will."""
    if child.failed_at is not None:
        yield _kill(child, child.failed_at + rules.kill_timeout_s, "it reported a failure and did not end")
    if child.phase in ("starting", "loading"):
        yield _start_deadline(child, rules)
    elif child.phase == "ready":
        yield from _stall_deadlines(child)
    elif child.phase == "stalled":
        since = min(child.beat_at, child.progress_at, child.beat_at if child.mute_at is None else child.mute_at)
        reason = f"{child.reason} for {rules.stall_timeout_s:g} s"
        yield _kill(child, since + rules.stall_timeout_s, reason)


def _stall_deadlines(child: Child) -> Iterator[Action]:
    yield Stall(at=child.beat_at + STALE_S, name=child.name, reason="no sign of life")
    if not child.gets_on:
        yield Stall(at=child.progress_at + STUCK_S, name=child.name, reason="has work and computes nothing")
    if child.mute_at is not None:
        yield Stall(at=child.mute_at, name=child.name, reason="generates no token when asked to")


def _start_deadline(child: Child, rules: SupervisionConfig) -> Action:
    due = child.started_at + rules.start_timeout_s
    reason = f"not ready within {rules.start_timeout_s:g} s"
    if child.ever_ready:
        return _kill(child, due, reason)
    at_stage = f" (still {child.phase}{f' {child.reason}' if child.reason else ''})"
    reason = f"{child.name} was {reason}{at_stage}; supervision.start_timeout_s sets the deadline"
    return GiveUp(at=due, name=child.name, reason=reason, exit_code=NotReadyInTimeError.exit_code)


def _reviving(child: Child, state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    """A child that does not live is started: the first time at once, after a crash with a pause, or given up."""
    if child.phase == "starting" and not any(waits_for(state, child)):
        yield _spawn(child, state, state.started_at)
    elif child.phase == "backoff":
        if child.retry_at is not None:
            yield _spawn(child, state, child.retry_at)
        else:
            yield _after_crash(child, state, rules)


def _spawn(child: Child, state: ClusterState, at: float) -> Action:
    return Spawn(at=at, name=child.name, incarnation=f"{state.run_id}.{child.name}.{child.num_starts + 1}")


def _after_crash(child: Child, state: ClusterState, rules: SupervisionConfig) -> Action:
    died_at = child.crashes[-1]
    recent = [t for t in child.crashes if t > died_at - rules.crash_window_s]
    if not child.ever_ready:
        return _given_up(child, f"{child.name} did not start: {child.reason}", StartupError.exit_code)
    if child.failure is not None and child.failure.fatal:
        return _given_up(child, f"{child.name} cannot go on: {child.reason}", StartupError.exit_code)
    if len(recent) >= rules.max_crashes:
        times = "once" if len(recent) == 1 else f"{len(recent)} times within {rules.crash_window_s:g} s, the last time"
        return _given_up(child, f"{child.name} died {times}: {child.reason}", CrashLoopError.exit_code)
    pause_s = _pause_s(len(recent), rules, seed=f"{state.run_id}.{child.name}.{child.num_starts}")
    return BackOff(at=died_at, name=child.name, until=died_at + pause_s, num_crashes=len(recent))


def _given_up(child: Child, what: str, exit_code: int) -> Action:
    """:param what: one line; the last lines of the child go below it."""
    lines = "".join(f"\n    {line}" for line in child.last_lines)
    return GiveUp(at=child.crashes[-1], name=child.name, reason=what + lines, exit_code=exit_code)


def _pause_s(num_crashes: int, rules: SupervisionConfig, seed: str) -> float:
    """The back-off doubles with each crash; a random half of it keeps servers that died together apart."""
    longest = min(rules.backoff_s * 2.0 ** min(num_crashes - 1, 30), rules.max_backoff_s)
    return longest * random.Random(seed).uniform(0.5, 1.0)


# --- one child on its way out ---------------------------------------------------------------------------------------


def _leaving(child: Child, leaving: Leaving, state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    """Nobody counts on it any more -> SIGTERM, or its new role -> deadline -> SIGTERM again -> deadline -> SIGKILL."""
    incarnation = child.incarnation or ""
    if leaving.then == "switch" and child.ready is not None and child.term_at is None:
        yield from _switching(child, leaving, state, rules)
    elif child.term_at is None:
        due = leaving.at if child.ready is None or _may_end(child, state) else leaving.deadline
        yield Terminate(at=due, name=child.name, incarnation=incarnation)
    elif child.hurry_at is None:
        # One that was not ready has nothing to drain: SIGTERM ends it.
        due = child.term_at + rules.kill_timeout_s if child.ready is None else max(child.term_at, leaving.deadline)
        yield Hurry(at=due, name=child.name, incarnation=incarnation)
    else:
        reason = f"still there {rules.kill_timeout_s:g} s after it was cut short"
        yield _kill(child, child.hurry_at + rules.kill_timeout_s, reason)


def _may_end(child: Child, state: ClusterState) -> bool:
    """A server may when nobody routes to it or counts on it, a proxy when whoever takes its place is ready."""
    if child.role != PROXY:
        return not state.is_held(child)
    others = [c for c in state.children.values() if c.role == PROXY and c.stays and c is not child]
    if is_replaced(child):
        others = [c for c in others if c.name == current_name(child.name)]
    return state.stop is not None or not others or any(c.phase in ("ready", "failed") for c in others)


def _switching(child: Child, leaving: Leaving, state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    if child.switch_at is not None:
        yield _kill(child, child.switch_at + rules.kill_timeout_s, "did not take its new role")
        return
    assert leaving.role is not None
    # A beat from before it left the members knows nothing of what came last.
    if not state.is_held(child) and child.is_idle_since(leaving.at):
        yield Switch(at=leaving.at, name=child.name, incarnation=child.incarnation or "", role=leaving.role)
    yield Stay(at=leaving.deadline, name=child.name)


def _rolling(state: ClusterState, roll: Roll) -> Iterator[Action]:
    """Each is restarted when the one before is up again; one that is not holds the others back."""
    name, at = roll.names[0], state.started_at
    child = state.children.get(name)
    if child is None or (child.lives and not child.stays):
        yield Rolled(at=at, name=name)
    elif roll.incarnation is None:
        yield Leave(at=at, name=name, then="restart", timeout_s=roll.timeout_s, reason=roll.reason)
    elif not child.is_wanted:
        yield Rolled(at=at, name=name)
    elif child.phase == "failed":
        yield RollEnded(at=at, reason=f"{name} did not come back; the others are left as they are")
    elif child.incarnation == roll.incarnation and child.leaving is None and child.kill_at is None:
        yield RollEnded(at=at, reason=f"{name} goes on as it was; the others are left as they are")
    elif child.incarnation != roll.incarnation and state.is_up(child):
        yield Rolled(at=at, name=name)


# --- taking it all down ---------------------------------------------------------------------------------------------


def _stopping(state: ClusterState, stop: Stop, rules: SupervisionConfig) -> Iterator[Action]:
    """The proxy first, so that running streams still have their servers; then the servers; then the end."""
    living = [child for child in state.children.values() if child.lives]
    if not living:
        yield Finish(at=state.started_at, exit_code=stop.exit_code)
    drain_s = rules.drain_timeout_s if stop.timeout_s is None else stop.timeout_s
    has_proxy = any(child.role == PROXY for child in state.children.values())
    for child in living:
        timeout_s = min(drain_s, AFTER_PROXY_S) if has_proxy and child.role != PROXY else drain_s
        is_next = child.role == PROXY or not state.proxies
        if is_next and (child.leaving is None or child.leaving.then != "end"):
            reason = stop.reason.partition("\n")[0]
            yield Leave(at=stop.at, name=child.name, then="end", timeout_s=timeout_s, reason=reason)
