"""Random histories: whatever children do, some things never happen, and every stop ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.plans import cluster_file, plan_of
from tests.helpers.supervision import BEAT_S, NAMES, Replay
from trtdisagg.config.schema import SupervisionConfig
from trtdisagg.protocol.spec import Beat, Ready, Report
from trtdisagg.supervisor import view
from trtdisagg.supervisor.decide import BEAT_STALE_S, UNDEAD_S, next_wake
from trtdisagg.supervisor.events import Abandon, Action, Event, Spawn

RULES = SupervisionConfig(
    start_timeout_s=20, drain_timeout_s=15, kill_timeout_s=5, max_crashes=4, crash_window_s=60, backoff_s=1
)
PLAN = plan_of(cluster_file())
VERBS = ["ready", "ready", "ready", "beats", "dies", "freezes", "thaws", "fails", "fails-for-good", "passes"]

steps = st.tuples(st.floats(0, 12), st.sampled_from(NAMES), st.sampled_from(VERBS))
histories = st.lists(steps, max_size=40)


class Checked(Replay):
    """Knows what really happened to the processes, and compares after every event."""

    def __init__(self) -> None:
        self.alive: dict[str, str] = {}
        self.said_ready: set[str] = set()
        self.heard_at: dict[str, float] = {}
        super().__init__(rules=RULES)

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Spawn):
            assert action.name not in self.alive, f"two incarnations of {action.name}"
            assert action.incarnation not in self.alive.values(), "an incarnation that was there before"
            self.alive[action.name] = action.incarnation
            self.heard_at[action.name] = self.now
        if isinstance(action, Abandon):
            del self.alive[action.name]
        super().carry_out(action)

    def report(self, name: str, report: Report) -> None:
        if name in self.alive:
            self.heard_at[name] = self.now
            if isinstance(report, Ready):
                self.said_ready.add(self.alive[name])
        super().report(name, report)

    def exit(self, name: str, how: str) -> None:
        self.alive.pop(name, None)
        super().exit(name, how)

    def handle(self, event: Event) -> None:
        super().handle(event)
        self.check()

    def check(self) -> None:
        wake = next_wake(self.state, self.rules)
        assert wake is None or wake > self.now, "something is due and was not done"
        for name, child in self.state.children.items():
            assert child.incarnation == self.alive.get(name)
        for member in view.members(self.state, PLAN):
            assert member.incarnation == self.alive[member.name], "routed to a dead one"
            assert member.incarnation in self.said_ready, "routed to one that is not ready"
            assert self.now - self.heard_at[member.name] <= BEAT_STALE_S + BEAT_S, "routed to a silent one"
        assert not (self.state.finished and self.alive)


def played(history: list[tuple[float, str, str]]) -> Checked:
    replay = Checked()
    for pause_s, name, verb in history:
        replay.advance(replay.now + pause_s)
        replay.do(name, verb, "why")
        replay.check()
    return replay


@given(history=histories)
@settings(deadline=None, max_examples=150)
def test_whatever_happens(history: list[tuple[float, str, str]]) -> None:
    played(history)


@given(history=histories, stop=st.sampled_from(["stop", "kill"]), after=histories)
@settings(deadline=None, max_examples=150)
def test_every_stop_ends(history: list[tuple[float, str, str]], stop: str, after: list[tuple[float, str, str]]) -> None:
    replay = played(history)
    replay.do("cluster", stop)
    stopped_at = replay.now
    for pause_s, name, verb in after:
        replay.advance(replay.now + pause_s)
        replay.do(name, verb, "why")
    assert not [a for a in replay.actions if isinstance(a, Spawn) and a.at > stopped_at]
    longest_s = RULES.drain_timeout_s + RULES.kill_timeout_s + 2 * UNDEAD_S + 0.1
    replay.advance(max(replay.now, stopped_at + longest_s))
    assert replay.state.finished


@given(history=histories)
@settings(deadline=None, max_examples=100)
def test_a_child_that_behaves_from_now_on_is_ready_or_given_up(history: list[tuple[float, str, str]]) -> None:
    """No state is a dead end: left alone, a cluster is ready again, or goes down."""
    replay = played(history)
    replay.frozen.clear()
    for _ in range(300):
        for child in list(replay.state.children.values()):
            if child.kill_at is not None or child.term_at is not None or child.failure is not None:
                replay.do(child.name, "dies")
            elif child.phase in ("starting", "loading"):
                replay.do(child.name, "ready")
        replay.advance(replay.now + 1)
        if replay.state.finished or set(replay.phases.values()) == {"ready"}:
            return
    raise AssertionError(f"stuck: {replay.phases}")


def test_the_checks_see_what_they_look_for() -> None:
    """A beat more than the rules allow to miss would be noticed."""
    replay = Checked()
    replay.do("context-0", "ready")
    replay.report("context-0", Beat(stats=replay.child("context-0").stats))
    assert [m.name for m in view.members(replay.state, PLAN)] == ["context-0"]
