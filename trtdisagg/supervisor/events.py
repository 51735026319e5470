"""Everything that happens to a cluster, as one tagged union of frozen values.

Observations come from the world, wishes from people. Actions are what `decide` wants done: each is reduced into the
state like an observation, and then carried out, so that it is never asked for twice. `at` is seconds on the agent's
monotonic clock; in an action that is not yet due, it is when it will be.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol.reports import Report
from trtdisagg.protocol.spec import PeerAddress, Role

ChildRole = Literal[Role, "proxy"]
Then = Literal["restart", "stop", "gone", "switch", "end"]
"""What becomes of a child when it has drained: it starts again; it stays in the table and is not started; it is
forgotten; it lives on in another role; it ends with the cluster."""


class _Event(msgspec.Struct, kw_only=True, frozen=True, tag_field="event"):
    at: float


# --- observations ---------------------------------------------------------------------------------------------------


class Spawned(_Event, tag="spawned", kw_only=True, frozen=True):
    """A child's processes exist."""

    name: str
    incarnation: str
    pid: int
    """Of rank 0."""
    pids: list[int] = []
    """Of all ranks, in order."""
    nodes: list[str] = []
    """Of the ranks likewise; empty: this host."""


class Reported(_Event, tag="reported", kw_only=True, frozen=True):
    """A child said how it is."""

    name: str
    incarnation: str
    report: Report


class Exited(_Event, tag="exited", kw_only=True, frozen=True):
    """A child's process, and all it had started, are gone."""

    name: str
    incarnation: str
    how: str
    """`exit status 1`, `killed by SIGKILL`, or why it could not be started."""
    last_lines: list[str] = []


class Told(_Event, tag="told", kw_only=True, frozen=True):
    """Somebody who routes to our servers has taken over a set of members, or counts anew who is in use."""

    holder: str
    """Incarnation of a proxy of ours, or the name of a registry."""
    members: frozenset[str] = frozenset()
    """Incarnations that it may route to."""
    in_use: dict[str, int] = {}
    """By incarnation: requests that count on it."""


class Canary(_Event, tag="canary", kw_only=True, frozen=True):
    """A server was asked for a token."""

    name: str
    incarnation: str
    error: str | None = None
    """None: it came."""


class Woke(_Event, tag="woke", kw_only=True, frozen=True):
    """The agent itself was held up (stopped, or the machine was out of CPU): nobody's silence counts until now."""

    late_s: float


class Noticed(_Event, tag="noticed", kw_only=True, frozen=True):
    """Something people should know and no state depends on."""

    text: str


# --- wishes ---------------------------------------------------------------------------------------------------------


class StopAsked(_Event, tag="stop_asked", kw_only=True, frozen=True):
    """Somebody wants the cluster down: a signal, or `trtdisagg down`."""

    reason: str
    exit_code: int
    timeout_s: float | None = None
    """Deadline of the drain; None: the cluster file's."""
    force: bool = False


class Added(_Event, tag="added", kw_only=True, frozen=True):
    """A new child, or one that was stopped, has failed or is about to go, and shall live again."""

    name: str
    role: ChildRole
    after: list[str] = []
    """Children whose place it takes: it starts when they are gone."""


class LeaveAsked(_Event, tag="leave_asked", kw_only=True, frozen=True):
    """Let a child drain, and then do something with it."""

    name: str
    then: Then
    timeout_s: float
    reason: str
    role: Role | None = None
    """The new one, of a switch."""


class RollAsked(_Event, tag="roll_asked", kw_only=True, frozen=True):
    """Restart children one after the other."""

    names: list[str]
    timeout_s: float
    reason: str


# --- actions --------------------------------------------------------------------------------------------------------


class Spawn(_Event, tag="spawn", kw_only=True, frozen=True):
    name: str
    incarnation: str


class Leave(_Event, tag="leave", kw_only=True, frozen=True):
    """Not routed to any more, and asked to end when nobody counts on it."""

    name: str
    then: Then
    timeout_s: float
    reason: str


class Rolled(_Event, tag="rolled", kw_only=True, frozen=True):
    """The first of those that are restarted in turn is back."""

    name: str


class RollEnded(_Event, tag="roll_ended", kw_only=True, frozen=True):
    """Those whose turn has not come are left as they are."""

    reason: str


class Terminate(_Event, tag="terminate", kw_only=True, frozen=True):
    """SIGTERM to the group: finish, then end."""

    name: str
    incarnation: str


class Hurry(_Event, tag="hurry", kw_only=True, frozen=True):
    """SIGTERM once more: cut short what still runs, say so to its clients, and end."""

    name: str
    incarnation: str


class Kill(_Event, tag="kill", kw_only=True, frozen=True):
    """SIGKILL to the group."""

    name: str
    incarnation: str
    reason: str


class Switch(_Event, tag="switch", kw_only=True, frozen=True):
    """Nothing runs on it any more: it may take its new role."""

    name: str
    incarnation: str
    role: Role


class Introduce(_Event, tag="introduce", kw_only=True, frozen=True):
    """A generation server is asked to meet servers that it may get KV from."""

    name: str
    incarnation: str
    peers: list[PeerAddress]


class Unmet(_Event, tag="unmet", kw_only=True, frozen=True):
    """It has not answered in time: nobody waits for it any longer."""

    name: str
    incarnation: str
    server: str
    peer: str
    """Incarnation of that server."""


class Stay(_Event, tag="stay", kw_only=True, frozen=True):
    """A switch did not come about in time: it goes on as before."""

    name: str


class Stall(_Event, tag="stall", kw_only=True, frozen=True):
    """It shows no sign of life or does not get on: not routed to until it does."""

    name: str
    reason: str


class BackOff(_Event, tag="back_off", kw_only=True, frozen=True):
    """A pause before the next start."""

    name: str
    until: float
    num_crashes: int
    """So many count; older ones are forgotten."""


class GiveUp(_Event, tag="give_up", kw_only=True, frozen=True):
    """A child has failed and is not started again by itself."""

    name: str
    reason: str
    exit_code: int


class Abandon(_Event, tag="abandon", kw_only=True, frozen=True):
    """Even SIGKILL did not end it: it hangs in the kernel, and waiting on would be for ever."""

    name: str


class Finish(_Event, tag="finish", kw_only=True, frozen=True):
    """Nothing runs any more."""

    exit_code: int


Observation = Spawned | Reported | Exited | Told | Canary | Woke | Noticed
Wish = StopAsked | Added | LeaveAsked | RollAsked
Action = (
    Spawn
    | Leave
    | Rolled
    | RollEnded
    | Terminate
    | Hurry
    | Kill
    | Switch
    | Introduce
    | Unmet
    | Stay
    | Stall
    | BackOff
    | GiveUp
    | Abandon
    | Finish
)
Event = Observation | Wish | Action
