"""Random histories: whatever children and people do, some things never happen, and everything that was begun ends."""

from __future__ import annotations

from helpers.random_world import NAMES, RULES, Step, World
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.supervisor.decide import UNDEAD_S
from trtdisagg.supervisor.events import Kill, Spawn

_LIVES = ["ready", "ready", "ready", "ready", "beats", "loads", "dies", "fails", "fails-for-good", "passes"]
_HEALTH = ["freezes", "thaws", "sticks", "gets-on", "busy", "idle", "canary", "no-canary", "no-canary", "wakes"]
_OBEY = ["obeys"] * 8
_WISHES = ["drain", "remove", "restart", "roll", "switch", "switched", "added", "added"]
_TALK = ["used-by", "used-by", "deaf", "hears", "late"]

steps = st.tuples(
    st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 7.0, 12.0]),
    st.sampled_from([*NAMES, "generation-0", "generation-0", "an old proxy"]),
    st.sampled_from(_LIVES + _HEALTH + _WISHES + _OBEY + _TALK),
    st.integers(0, 30),
)
histories = st.lists(steps, max_size=40)
starts = st.sampled_from(["new", "up", "rolls"])


def played(history: list[Step], *, start: str) -> World:
    """A cluster that a history has happened to: from its start, from when it was up, or while it is rolled."""
    world = World()
    for name in NAMES if start != "new" else ():
        world.do(name, "ready")
    if start == "rolls":
        world.do("cluster", "roll", " ".join(NAMES))
    for step in history:
        world.step(step)
    return world


def leave_deadlines(world: World) -> dict[str | None, float]:
    """By incarnation, of those that are on their way."""
    return {c.incarnation: c.leaving.deadline for c in world.state.children.values() if c.leaving is not None}


def heal(world: World) -> None:
    """From now on everybody is healthy, and clients are patient."""
    world.is_told = True
    for those in (world.frozen, world.stuck, world.busy):
        those.clear()
    world.in_use.clear()
    for name in list(world.state.children):
        world.do(name, "canary")


def is_settled(world: World) -> bool:
    """Everybody is where it shall be."""
    children = world.state.children.values()
    at_rest = all(c.phase == "ready" or (not c.lives and c.phase in ("stopped", "failed")) for c in children)
    return world.state.finished or (at_rest and world.state.roll is None and not any(c.leaving for c in children))


@given(history=histories, start=starts)
@settings(deadline=None, max_examples=150)
def test_whatever_happens(history: list[Step], start: str) -> None:
    played(history, start=start)


@given(history=histories, start=starts, stop=st.sampled_from(["stop", "kill"]), after=st.lists(steps, max_size=20))
@settings(deadline=None, max_examples=80)
def test_every_stop_ends(history: list[Step], start: str, stop: str, after: list[Step]) -> None:
    """Also when nobody does as asked, and whatever is wished for meanwhile."""
    world = played(history, start=start)
    stopped_at = world.now
    world.do("cluster", stop)
    for step in after:
        world.step(step)
    longest_s = RULES.drain_timeout_s + 2 * RULES.kill_timeout_s + 1 + RULES.kill_timeout_s + 2 * UNDEAD_S
    late_s = sum(step[3] for step in after if step[2] == "wakes")
    world.advance(max(world.now, stopped_at + longest_s + late_s + 0.1))
    assert world.state.finished
    assert not [a for a in world.actions if isinstance(a, Spawn) and a.at > stopped_at]


@given(history=histories, start=starts, last=st.sampled_from(["drain", "remove", "restart", "switch", "roll"]))
@settings(deadline=None, max_examples=80)
def test_every_leave_ends(history: list[Step], start: str, last: str) -> None:
    """Soon after its deadline, also when the one that leaves and those who count on it do not care."""
    world = played(history, start=start)
    for child in world.state.children.values():
        if child.lives:
            world.use(child.name, 1)
    world.step((0.0, "generation-0", last, 2))
    deadlines = leave_deadlines(world)
    for _ in range(120):
        world.obey(stubborn=True)
        world.advance(world.now + 0.5)
    # A wish while it leaves never moves the deadline back: a later one belongs to another leave.
    still = leave_deadlines(world)
    assert all(still[name] > deadlines.get(name, -1.0) for name in still), f"still leaving: {still}"


@given(history=histories, start=starts)
@settings(deadline=None, max_examples=150)
def test_no_state_is_a_dead_end(history: list[Step], start: str) -> None:
    """Where all behave from now on, every server is ready again, or at rest for a reason, and every roll ends."""
    world = played(history, start=start)
    heal(world)
    for _ in range(300):
        world.obey(stubborn=False)
        world.advance(world.now + 1)
        if is_settled(world):
            return
    raise AssertionError(f"stuck: {world.phases}, {world.state.roll}, {world.state.stop}")


@given(history=histories)
@settings(deadline=None, max_examples=60)
def test_nobody_is_killed_who_does_nothing_wrong(history: list[Step]) -> None:
    """Wishes alone end nobody by force, as long as all do as they are asked."""
    world = played([], start="up")
    for step in history:
        if step[2] in (*_WISHES, "used-by", "canary", "beats", "passes", "late", "obeys") and step[2] != "switched":
            world.step((min(step[0], 1.0), *step[1:]))
            for _ in range(3):
                world.obey(stubborn=False)
    assert not [a for a in world.actions if isinstance(a, Kill)]
