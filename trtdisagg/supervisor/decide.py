"""What is to be done, and when: a pure function of the state.

`agenda` lists every action the state calls for, each with the time at which it is due. What is due now is done; the
earliest of the others says how long the agent may sleep. There is no other timer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec.structs import replace

from trtdisagg.config.schema import SupervisionConfig
from trtdisagg.errors import CrashLoopError, NotReadyInTimeError, StartupError
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.events import (
    Abandon,
    Action,
    BackOff,
    Finish,
    GiveUp,
    Kill,
    Spawn,
    Stall,
    Terminate,
)
from trtdisagg.supervisor.state import PROXY, ClusterState, Stop

BEAT_STALE_S = 5.0
"""Without a beat for this long a server is not routed to: ten beats are missing."""
BEAT_DEAD_S = 30.0
"""Without one for this long it is killed and started again."""
UNDEAD_S = 20.0
"""From SIGKILL until a child that is still there is left alone."""


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
        return
    for child in state.children.values():
        if child.lives:
            yield from _watching(child, rules)
        else:
            yield from _reviving(child, state, rules)


# --- keeping it up --------------------------------------------------------------------------------------------------


def _watching(child: Child, rules: SupervisionConfig) -> Iterator[Action]:
    """A child that lives has to become ready, to show that it is alive, and to end when it says that it will."""
    if child.kill_at is not None:
        yield Abandon(at=child.kill_at + UNDEAD_S, name=child.name)
        return
    if child.failed_at is not None:
        due = child.failed_at + rules.kill_timeout_s
        yield Kill(at=due, name=child.name, reason="it reported a failure and did not end")
    if child.phase in ("starting", "loading"):
        yield _start_deadline(child, rules)
    elif child.phase == "ready":
        yield _stall_deadline(child)
    elif child.phase == "stalled":
        yield Kill(at=child.beat_at + BEAT_DEAD_S, name=child.name, reason=f"no sign of life for {BEAT_DEAD_S:.0f} s")


def _stall_deadline(child: Child) -> Action:
    return Stall(at=child.beat_at + BEAT_STALE_S, name=child.name)


def _start_deadline(child: Child, rules: SupervisionConfig) -> Action:
    due = child.started_at + rules.start_timeout_s
    reason = f"not ready within {rules.start_timeout_s:g} s"
    if child.ever_ready:
        return Kill(at=due, name=child.name, reason=reason)
    at_stage = f" (still {child.phase}{f' {child.reason}' if child.reason else ''})"
    reason = f"{child.name} was {reason}{at_stage}; supervision.start_timeout_s sets the deadline"
    return GiveUp(at=due, name=child.name, reason=reason, exit_code=NotReadyInTimeError.exit_code)


def _reviving(child: Child, state: ClusterState, rules: SupervisionConfig) -> Iterator[Action]:
    """A child that does not live is started: the first time at once, after a death with a pause, or given up."""
    if child.phase == "starting":
        yield _spawn(child, state, state.started_at)
    elif child.phase == "backoff":
        if child.retry_at is not None:
            yield _spawn(child, state, child.retry_at)
        else:
            yield _after_death(child, state, rules)


def _spawn(child: Child, state: ClusterState, at: float) -> Action:
    return Spawn(at=at, name=child.name, incarnation=f"{state.run_id}.{child.name}.{child.num_starts + 1}")


def _after_death(child: Child, state: ClusterState, rules: SupervisionConfig) -> Action:
    died_at = child.deaths[-1]
    recent = [t for t in child.deaths if t > died_at - rules.crash_window_s]
    if not child.ever_ready:
        return _given_up(child, f"{child.name} did not start: {child.reason}", StartupError.exit_code)
    if child.failure is not None and child.failure.fatal:
        return _given_up(child, f"{child.name} cannot go on: {child.reason}", StartupError.exit_code)
    if len(recent) >= rules.max_crashes:
        times = "once" if len(recent) == 1 else f"{len(recent)} times within {rules.crash_window_s:g} s, the last time"
        return _given_up(child, f"{child.name} died {times}: {child.reason}", CrashLoopError.exit_code)
    pause_s = _pause_s(len(recent), rules, seed=f"{state.run_id}.{child.name}.{child.num_starts}")
    return BackOff(at=died_at, name=child.name, until=died_at + pause_s)


def _given_up(child: Child, what: str, exit_code: int) -> Action:
    """:param what: one line; the last lines of the child go below it."""
    lines = "".join(f"\n    {line}" for line in child.last_lines)
    return GiveUp(at=child.deaths[-1], name=child.name, reason=what + lines, exit_code=exit_code)


def _pause_s(num_deaths: int, rules: SupervisionConfig, seed: str) -> float:
    """The back-off doubles with each death; a random half of it keeps servers that died together apart."""
    longest = min(rules.backoff_s * 2.0 ** min(num_deaths - 1, 30), rules.max_backoff_s)
    return longest * random.Random(seed).uniform(0.5, 1.0)


# --- taking it down -------------------------------------------------------------------------------------------------


def _stopping(state: ClusterState, stop: Stop, rules: SupervisionConfig) -> Iterator[Action]:
    """The proxy first, so that running streams still have their servers; then the servers; then the end."""
    living = [child for child in state.children.values() if child.lives]
    if not living:
        yield Finish(at=state.started_at, exit_code=stop.exit_code)
    drain_s = rules.drain_timeout_s if stop.timeout_s is None else stop.timeout_s
    proxy = state.children.get(PROXY)
    for child in living:
        if child.phase == "ready":
            yield _stall_deadline(child)  # the proxy may still route to it
        if child.kill_at is not None:
            yield Abandon(at=child.kill_at + UNDEAD_S, name=child.name)
        elif stop.force:
            yield Kill(at=state.started_at, name=child.name, reason=stop.reason)
        elif child.term_at is not None:
            grace_s = _grace_s(child, proxy, drain_s, rules)
            yield Kill(at=child.term_at + grace_s, name=child.name, reason=f"still there after {grace_s:g} s")
        elif child is proxy or proxy is None or not proxy.lives:
            yield Terminate(at=state.started_at, name=child.name)


def _grace_s(child: Child, proxy: Child | None, drain_s: float, rules: SupervisionConfig) -> float:
    """The time to drain is the proxy's; behind it a server has nothing left to do but to end."""
    if child is proxy:
        return drain_s
    return rules.kill_timeout_s if proxy is not None else drain_s + rules.kill_timeout_s
