"""The state of one child, a server or a proxy. Pure; how events change it is in `transitions`.

    starting -> loading -> ready <-> stalled        a live child (it has an incarnation)
        ^                    |
        +---- backoff <------+ died                 no process
    any live one -> draining -> stopping -> starting | stopped | (forgotten)
    ready -> draining -> ready                      in another role

A child has at most one incarnation at a time: the next is spawned only after the last has exited with all it started.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.control import ServerState
from trtdisagg.protocol.reports import Failed, Linked, Ready
from trtdisagg.protocol.spec import PeerAddress, Role
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.events import ChildRole, Then
from trtdisagg.supervisor.history import History
from trtdisagg.supervisor.rates import Window

STALE_S = 2.0
"""Without a beat for this long a server is not routed to."""
STUCK_S = 1.2
"""Nor is one that has work and gets nowhere for this long, by what its beats say: two of them, so that it is seen
within 2 s."""
NUM_CANARIES_MISSED = 2
"""So many in a row, and the server is not routed to."""


class Leaving(msgspec.Struct, kw_only=True, frozen=True):
    """A child on its way out, or to another role."""

    at: float
    then: Then
    deadline: float
    """When it is cut short."""
    reason: str
    role: Role | None = None
    """The new one, of a switch."""


class Meeting(msgspec.Struct, kw_only=True, frozen=True):
    """Of a generation server with one that it may get KV from."""

    peer: PeerAddress
    asked_at: float
    link: Linked | None = None
    """What came of it; None: it has not answered yet."""


class Child(msgspec.Struct, kw_only=True, frozen=True):
    """A server, or a proxy, through all its incarnations."""

    name: str
    role: ChildRole
    phase: ServerState = "starting"
    reason: str | None = None
    is_wanted: bool = True
    """False: it was drained and stays stopped."""
    after: tuple[str, ...] = ()
    """Children that must be gone before it starts."""
    num_starts: int = 0
    crashes: tuple[float, ...] = ()
    """When it ended without being asked to."""
    retry_at: float | None = None
    last_lines: list[str] = []
    """What the last incarnation said at its end."""
    ever_ready: bool = False
    history: History = History()

    # Of the incarnation that lives now:
    incarnation: str | None = None
    """None: no process of this name exists."""
    pid: int | None = None
    pids: tuple[int, ...] = ()
    """Of all ranks."""
    started_at: float = 0.0
    ready_at: float | None = None
    ready: Ready | None = None
    in_role_at: float = 0.0
    """When it became ready in the role that it has now."""
    meetings: dict[str, Meeting] = {}
    """By incarnation of the other; never changed in place."""
    beat_at: float = 0.0
    progress: int = 0
    progress_at: float = 0.0
    """When it last got on, or had nothing to do."""
    num_canaries_missed: int = 0
    mute_at: float | None = None
    """When it had missed so many tokens in a row that it is not routed to; None: it gives them."""
    stats: Stats = Stats()
    window: Window = Window()
    failure: Failed | None = None
    """What it reported before its end."""
    failed_at: float | None = None
    leaving: Leaving | None = None
    term_at: float | None = None
    hurry_at: float | None = None
    kill_at: float | None = None
    switch_at: float | None = None

    @property
    def gets_on(self) -> bool:
        """Whether its last beat showed progress, or nothing to do."""
        return self.progress_at >= self.beat_at

    @property
    def lives(self) -> bool:
        return self.incarnation is not None

    @property
    def stays(self) -> bool:
        """Whether it belongs to the cluster when all that is under way is done."""
        return self.is_wanted and (self.leaving is None or self.leaving.then in ("restart", "switch"))

    @property
    def is_going(self) -> bool:
        """Whether it lives, and its place is free before long."""
        return self.lives and (not self.stays or self.phase == "failed")

    @property
    def is_ready_server(self) -> bool:
        return self.phase == "ready" and self.role != "proxy"

    def is_idle_since(self, at: float) -> bool:
        """Whether it has said after that time that nothing runs, waits or is held."""
        has_said = bool(self.window.beats) and self.window.beats[-1].at > at
        return has_said and not (self.stats.num_running or self.stats.num_waiting or self.stats.num_held_blocks)
