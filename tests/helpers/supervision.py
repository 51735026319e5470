"""Plays histories into the real reducer and the real rules: a fake clock, and children that do as the history says.

    replay = Replay()
    replay.play('''
        1  proxy ready
        2  context-0 ready
        9  context-0 dies
    ''')
    assert replay.log[-2:] == ["context-0 back_off", "context-0 spawn"]

A child that was started has a pid at once, and beats every second once it is ready unless it is frozen.
"""

from __future__ import annotations

from collections.abc import Callable

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.reports import Beat, Failed, Loading, Ready, Report
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.decide import decide, next_wake
from trtdisagg.supervisor.events import (
    Action,
    Added,
    Canary,
    ChildRole,
    Event,
    Exited,
    LeaveAsked,
    Reported,
    RollAsked,
    Spawn,
    Spawned,
    StopAsked,
    Then,
    Told,
    Woke,
)
from trtdisagg.supervisor.links import routable
from trtdisagg.supervisor.reducer import reduce
from trtdisagg.supervisor.state import PROXY, initial

NAMES = (PROXY, "context-0", "generation-0")
BEAT_S = 1.0
_LONGEST_S = 100_000.0


class Replay:
    """
    :ivar log: the actions in order, as `NAME ACTION`.
    :ivar actions: the same as values, `at` included.
    """

    def __init__(self, names: tuple[str, ...] = NAMES, rules: SupervisionConfig | None = None) -> None:
        self.rules = rules or SupervisionConfig()
        self.state = initial("run", {name: role_of(name) for name in names}, 0.0)
        self.now = 0.0
        self.actions: list[Action] = []
        self.frozen: set[str] = set()
        self.stuck: set[str] = set()
        """Beat, have work, and do not get on."""
        self.busy: set[str] = set()
        """Have a request that runs, and get on."""
        self.in_use: dict[str, int] = {}
        """Requests at the proxy that count on a server, by incarnation."""
        self.is_told = True
        """Whether the proxy takes every change of the members over at once."""
        self._progress = 0
        self._pids = 100
        self._settle()

    @property
    def log(self) -> list[str]:
        return [f"{getattr(a, 'name', 'cluster')} {a.__struct_config__.tag}" for a in self.actions]

    def child(self, name: str) -> Child:
        return self.state.children[name]

    def incarnation(self, name: str) -> str | None:
        return self.child(name).incarnation if name in self.state.children else None

    @property
    def phases(self) -> dict[str, str]:
        return {child.name: child.phase for child in self.state.children.values()}

    def times(self, what: str) -> list[float]:
        """When an action of the log was taken."""
        return [a.at for a, line in zip(self.actions, self.log, strict=True) if line == what]

    # --- histories --------------------------------------------------------------------------------------------------

    def play(self, history: str) -> Replay:
        """One line an event: time, child (or `cluster`), what it does."""
        for line in history.strip().splitlines():
            at, name, verb, *rest = line.split(maxsplit=3)
            self.advance(float(at))
            self.do(name, verb, rest[0] if rest else "")
        return self

    def do(self, name: str, verb: str, rest: str = "") -> None:
        verbs: dict[str, Callable[[], None]] = {
            "loads": lambda: self.report(name, Loading(stage=rest)),
            "ready": lambda: self.report(name, Ready(host="127.0.0.1", port=7, max_seq_len=64, num_blocks=9)),
            "fails": lambda: self.report(name, Failed(message=rest)),
            "fails-for-good": lambda: self.report(name, Failed(message=rest, fatal=True)),
            "beats": lambda: self.report(name, Beat(stats=Stats())),
            "freezes": lambda: self.frozen.add(name),
            "thaws": lambda: self.frozen.discard(name),
            "dies": lambda: self.exit(name, rest or "exit status 1"),
            "ends": lambda: self.exit(name, "exit status 0"),
            "passes": lambda: None,
            "sticks": lambda: self.stuck.add(name),
            "gets-on": lambda: self.stuck.discard(name),
            "used-by": lambda: self.use(name, int(rest)),
            "canary": lambda: self.canary(name, None),
            "no-canary": lambda: self.canary(name, rest or "no token"),
            "added": lambda: self.handle(Added(at=self.now, name=name, role=role_of(name), after=rest.split())),
            "drain": lambda: self.leave(name, "stop", float(rest or 30)),
            "remove": lambda: self.leave(name, "gone", float(rest or 30)),
            "restart": lambda: self.leave(name, "restart", float(rest or 30)),
            "switch": lambda: self.leave(name, "switch", 30, rest),
            "busy": lambda: self.busy.add(name),
            "idle": lambda: self.busy.discard(name),
            "switched": lambda: self.report(name, Ready(host="127.0.0.1", port=7, role=rest)),  # type: ignore[arg-type]
            "roll": lambda: self.handle(RollAsked(at=self.now, names=rest.split(), timeout_s=30, reason="restarts")),
            "stop": lambda: self.handle(StopAsked(at=self.now, reason="SIGINT", exit_code=130)),
            "kill": lambda: self.handle(StopAsked(at=self.now, reason="SIGINT", exit_code=130, force=True)),
            "wakes": lambda: self.handle(Woke(at=self.now, late_s=float(rest))),
        }
        verbs[verb]()

    def leave(self, name: str, then: Then, timeout_s: float, role: str = "") -> None:
        self.handle(
            LeaveAsked(
                at=self.now,
                name=name,
                then=then,
                timeout_s=timeout_s,
                reason="drains",
                role=role or None,  # type: ignore[arg-type]
            )
        )

    def canary(self, name: str, error: str | None) -> None:
        incarnation = self.child(name).incarnation or ""
        self.handle(Canary(at=self.now, name=name, incarnation=incarnation, error=error))

    def use(self, name: str, number: int) -> None:
        """Requests count on a server from now on."""
        self.in_use[self.child(name).incarnation or ""] = number
        self._settle()

    def report(self, name: str, report: Report) -> None:
        """One that is not there says nothing."""
        if (incarnation := self.incarnation(name)) is not None:
            self.handle(Reported(at=self.now, name=base(name), incarnation=incarnation, report=report))

    def exit(self, name: str, how: str) -> None:
        if (incarnation := self.incarnation(name)) is not None:
            lines = [f"{name} says goodbye"]
            self.handle(Exited(at=self.now, name=base(name), incarnation=incarnation, how=how, last_lines=lines))

    def advance(self, to: float) -> None:
        """Let time pass: actions are taken when they are due, and children beat."""
        assert to >= self.now, "histories go forward"
        while self.now < to:
            wake = next_wake(self.state, self.rules)
            self.now = min(to, self.now + BEAT_S, max(self.now, _LONGEST_S if wake is None else wake))
            for name in list(self.state.children):
                if name in self.state.children and self.child(name).ready and name not in self.frozen:
                    self.beat(name)
            self._settle()

    def beat(self, name: str) -> None:
        self._progress += name not in self.stuck
        progress = 0 if name in self.stuck else self._progress
        is_working = name in self.stuck or name in self.busy
        self.report(name, Beat(stats=Stats(num_running=int(is_working)), progress=progress, is_working=is_working))

    # --- the loop of the agent --------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        self.state = reduce(self.state, event)
        self._settle()

    def _settle(self) -> None:
        for _ in range(1000):
            self._tell()
            action = decide(self.state, self.rules, self.now)
            if action is None:
                return
            self.state = reduce(self.state, action)
            self.actions.append(action)
            self.carry_out(action)
        raise AssertionError(f"the rules never come to rest: {self.log[-6:]}")

    def _tell(self) -> None:
        """Every proxy that serves takes the members over, one that finishes its work too."""
        members = frozenset(c.incarnation or "" for c in routable(self.state))
        for proxy in self.state.proxies if self.is_told else []:
            told = Told(at=self.now, holder=proxy.incarnation or "", members=members, in_use=dict(self.in_use))
            if proxy.ready is not None and proxy.name not in self.frozen:
                self.tell(told)

    def tell(self, told: Told) -> None:
        self.state = reduce(self.state, told)

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self.frozen.discard(action.name)
            self.stuck.discard(action.name)
            self.busy.discard(action.name)
            self._pids += 1
            event = Spawned(at=self.now, name=action.name, incarnation=action.incarnation, pid=self._pids)
            self.state = reduce(self.state, event)


def base(name: str) -> str:
    """What a child is called in events about its process: a proxy with a successor was `proxy` when it started."""
    return PROXY if name.startswith(f"{PROXY}.") else name


def role_of(name: str) -> ChildRole:
    return name.rpartition(".")[2].partition("-")[0]  # type: ignore[return-value]


def up(rules: SupervisionConfig | None = None) -> Replay:
    """A cluster of proxy, one context and one generation server that has become ready at 3 s."""
    replay = Replay(rules=rules)
    replay.play("""
        1 proxy ready
        2 context-0 ready
        3 generation-0 ready
    """)
    replay.actions.clear()
    return replay
