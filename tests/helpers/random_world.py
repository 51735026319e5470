"""A world for random histories: knows what really happened to the processes, and checks each action and each state.

What it knows comes from the events it made and the actions it was asked for, never from the state that it checks.
"""

from __future__ import annotations

from helpers.plans import cluster_file, plan_of
from helpers.supervision import BEAT_S, Replay, role_of

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.reports import Beat, Ready, Report
from trtdisagg.supervisor import view
from trtdisagg.supervisor.child import NUM_CANARIES_MISSED, STALE_S, Child
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.decide import next_wake
from trtdisagg.supervisor.events import (
    Abandon,
    Action,
    Canary,
    Event,
    Exited,
    Hurry,
    Reported,
    Spawn,
    Switch,
    Terminate,
    Told,
)
from trtdisagg.supervisor.state import PROXY

Step = tuple[float, str, str, int]
"""After how many seconds, which child, does what, and a number that says how."""

NAMES = (PROXY, "context-0", "generation-0", "generation-1")
RULES = SupervisionConfig(
    start_timeout_s=20,
    drain_timeout_s=15,
    kill_timeout_s=5,
    stall_timeout_s=8,
    max_crashes=4,
    crash_window_s=60,
    backoff_s=1,
)
PLAN = plan_of(cluster_file(generation_servers=ServerSection(num_instances=2)))
_PLANS = {child.name: child for child in PLAN.children}
_TIMEOUTS_S = (1, 10, 40)
_FOR_SERVERS = ("drain", "remove", "switch", "used-by")


def _detail(verb: str, number: int) -> str:
    """How it is done."""
    match verb:
        case "drain" | "remove" | "restart":
            return str(_TIMEOUTS_S[number % 3])
        case "switch" | "switched":
            return ("context", "generation")[number % 2]
        case "used-by":
            return str(number % 2)
        case "roll":
            return " ".join((*NAMES[number % 4 :], "context-9"))
    return "why"


def plan_by_name(name: str) -> ChildPlan:
    return _PLANS.get(name) or _PLANS[PROXY]


class World(Replay):
    def __init__(self) -> None:
        self.alive: dict[str, str] = {}
        """Name by incarnation, of the processes that exist."""
        self.dead: list[str] = []
        self.said_ready: set[str] = set()
        self.heard_at: dict[str, float] = {}
        self.got_on_at: dict[str, float] = {}
        self.is_idle: dict[str, bool] = {}
        self.num_missed: dict[str, int] = {}
        self.drains: set[str] = set()
        """Those that could serve when they were asked to end: they have a deadline to finish what they have."""
        self.listings: dict[str, Told] = {}
        """What each proxy said last."""
        super().__init__(NAMES, RULES)

    # --- what happens -----------------------------------------------------------------------------------------------

    def step(self, step: Step) -> None:
        pause_s, name, verb, number = step
        self.advance(self.now + pause_s)
        if name == "an old proxy":
            name = next((n for n in self.state.children if n.startswith("proxy.")), PROXY)
        if name in self.state.children or verb in ("added", "roll", "late"):
            self.do_randomly(name, verb, number)
        self.check()

    def do_randomly(self, name: str, verb: str, number: int) -> None:
        is_server = role_of(name) in ("context", "generation")
        if verb == "late":
            self.speak_late(number)
        elif verb == "obeys":
            self.obey(stubborn=False)
        elif verb == "wakes":
            self.wake(number)
        elif verb in ("deaf", "hears"):
            self.is_told = verb == "hears"
        elif verb == "added":
            self.do(name if is_server else NAMES[-1], verb, "context-0" if number == 1 else "")
        elif is_server or verb not in _FOR_SERVERS:
            self.do(name, verb, _detail(verb, number))

    def wake(self, late_s: int) -> None:
        self.heard_at = dict.fromkeys(self.heard_at, self.now)
        self.got_on_at = dict.fromkeys(self.got_on_at, self.now)
        self.num_missed.clear()
        self.do("cluster", "wakes", str(late_s))

    def obey(self, *, stubborn: bool) -> None:
        """Children do what they are asked to; stubborn ones only end when they are killed."""
        for child in list(self.state.children.values()):
            wants_end = child.term_at is not None or child.failed_at is not None
            if not child.lives:
                continue
            if child.kill_at is not None or (wants_end and not stubborn):
                self.do(child.name, "dies")
            elif child.switch_at is not None and child.leaving is not None and not stubborn:
                self.do(child.name, "switched", child.leaving.role or "")
            elif child.phase in ("starting", "loading"):
                self.do(child.name, "ready")

    def speak_late(self, number: int) -> None:
        """Last words of one that is long gone, whoever bears its name now."""
        if not self.dead:
            return
        incarnation = self.dead[number % len(self.dead)]
        name, at = incarnation.split(".")[1], self.now
        members = frozenset(self.alive)
        late: list[Event] = [
            Reported(at=at, name=name, incarnation=incarnation, report=Ready(host="127.0.0.1", port=1)),
            Reported(at=at, name=name, incarnation=incarnation, report=Beat(stats=self.child(PROXY).stats)),
            Exited(at=at, name=name, incarnation=incarnation, how="long ago"),
            Canary(at=at, name=name, incarnation=incarnation, error="nobody there"),
            Told(at=at, holder=incarnation, members=members, in_use=dict.fromkeys(members, 1)),
        ]
        before = self.state
        self.handle(late[number % len(late)])
        assert self.state == before, f"heard {late[number % len(late)]}"

    def report(self, name: str, report: Report) -> None:
        incarnation = self.incarnation(name)
        if incarnation is not None:
            self.heard_at[incarnation] = self.now
            if isinstance(report, Ready):
                self.said_ready.add(incarnation)
                self.got_on_at[incarnation] = self.now
            if isinstance(report, Beat):
                self.is_idle[incarnation] = not report.stats.num_running
                if name not in self.stuck or not report.is_working:
                    self.got_on_at[incarnation] = self.now
        super().report(name, report)

    def canary(self, name: str, error: str | None) -> None:
        incarnation = self.child(name).incarnation
        if incarnation in self.said_ready:
            self.num_missed[incarnation] = self.num_missed.get(incarnation, 0) + 1 if error else 0
        super().canary(name, error)

    def exit(self, name: str, how: str) -> None:
        incarnation = self.incarnation(name)
        if incarnation is not None:
            self.bury(incarnation)
        super().exit(name, how)

    def bury(self, incarnation: str) -> None:
        del self.alive[incarnation]
        self.dead.append(incarnation)
        self.listings.pop(incarnation, None)

    def tell(self, told: Told) -> None:
        self.listings[told.holder] = told
        super().tell(told)

    def handle(self, event: Event) -> None:
        super().handle(event)
        self.check()

    # --- what is asked for ------------------------------------------------------------------------------------------

    def carry_out(self, action: Action) -> None:
        match action:
            case Spawn(name=name, incarnation=incarnation):
                assert incarnation not in self.alive, "an incarnation that is there"
                assert incarnation not in self.dead, "an incarnation that was there before"
                assert name == PROXY or name not in self.alive.values(), f"two incarnations of {name}"
                self.alive[incarnation] = name
                self.heard_at[incarnation] = self.now
            case Abandon():
                (gone,) = self.alive.keys() - self.incarnations()
                self.bury(gone)
            case Terminate(name=name, incarnation=incarnation):
                self.check_may_end(self.child(name), incarnation)
            case Hurry(name=name, incarnation=incarnation):
                child = self.child(name)
                assert child.leaving is not None
                assert incarnation not in self.drains or self.now >= child.leaving.deadline, "cut short too early"
            case Switch(incarnation=incarnation):
                assert not self.holders(incarnation), "switched while somebody counts on it"
                assert self.is_idle[incarnation], "switched while something runs"
        super().carry_out(action)

    def check_may_end(self, child: Child, incarnation: str) -> None:
        """Nobody counts on a server when it is asked to end, but at its deadline."""
        assert child.leaving is not None
        if incarnation in self.said_ready:
            self.drains.add(incarnation)
        is_front_there = any(name.startswith(PROXY) for name in self.alive.values())
        if is_front_there and incarnation in self.said_ready and child.role != PROXY:
            is_free = not self.holders(incarnation)
            assert is_free or self.now >= child.leaving.deadline, f"{child.name} ended while somebody counts on it"

    def holders(self, incarnation: str) -> list[str]:
        """Proxies that live and last said that they may route to a server, or use it."""
        return [
            holder
            for holder, told in self.listings.items()
            if incarnation in told.members or told.in_use.get(incarnation, 0)
        ]

    # --- what must be so --------------------------------------------------------------------------------------------

    def incarnations(self) -> set[str]:
        return {child.incarnation for child in self.state.children.values() if child.incarnation is not None}

    def check(self) -> None:
        wake = next_wake(self.state, self.rules)
        assert wake is None or wake > self.now, "something is due and was not done"
        assert self.incarnations() == set(self.alive)
        assert all(name == child.name for name, child in self.state.children.items())
        old = [child for child in self.state.children.values() if child.role == PROXY and child.name != PROXY]
        assert all(child.leaving is not None for child in old), "an old proxy that stays"
        assert self.state.roll is None or self.state.roll.names
        for member in view.routable(self.state, PLAN, plan_by_name).members:
            self.check_routed(member.name, member.incarnation)
        assert not (self.state.finished and self.alive)

    def check_routed(self, name: str, incarnation: str) -> None:
        child = self.child(name)
        assert incarnation in self.alive, "routed to a dead one"
        assert incarnation in self.said_ready, "routed to one that is not ready"
        assert child.leaving is None, "routed to one that leaves"
        assert self.now - self.heard_at[incarnation] <= STALE_S + BEAT_S, "routed to a silent one"
        # The first beat of one that is stuck still shows what it did before.
        assert self.now - self.got_on_at[incarnation] <= STALE_S + 2 * BEAT_S, "routed to one that is stuck"
        assert self.num_missed.get(incarnation, 0) < NUM_CANARIES_MISSED, "routed to one that gives no token"
