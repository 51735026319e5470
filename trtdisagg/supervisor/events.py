"""Everything that happens to a cluster, as one tagged union of frozen values.

Observations come from the world. Actions are what `decide` wants done: each is reduced into the state like an
observation, and then carried out, so that it is never asked for twice. `at` is seconds on the agent's monotonic clock;
in an action that is not yet due, it is when it will be.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.spec import Report


class _Event(msgspec.Struct, kw_only=True, frozen=True, tag_field="event"):
    at: float


# --- observations ---------------------------------------------------------------------------------------------------


class Spawned(_Event, tag="spawned", kw_only=True, frozen=True):
    """A child's process exists."""

    name: str
    incarnation: str
    pid: int


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


class Routed(_Event, tag="routed", kw_only=True, frozen=True):
    """The proxy has taken over the set of members."""

    names: list[str]


class StopAsked(_Event, tag="stop_asked", kw_only=True, frozen=True):
    """Somebody wants the cluster down: a signal, or `trtdisagg down`."""

    reason: str
    exit_code: int
    timeout_s: float | None = None
    """Deadline of the drain; None: the cluster file's."""
    force: bool = False


class Woke(_Event, tag="woke", kw_only=True, frozen=True):
    """The agent itself was held up (stopped, or the machine was out of CPU): nobody's silence counts until now."""

    late_s: float


class Noticed(_Event, tag="noticed", kw_only=True, frozen=True):
    """Something people should know and no state depends on."""

    text: str


# --- actions --------------------------------------------------------------------------------------------------------


class Spawn(_Event, tag="spawn", kw_only=True, frozen=True):
    name: str
    incarnation: str


class Terminate(_Event, tag="terminate", kw_only=True, frozen=True):
    """SIGTERM to the group: finish, then end."""

    name: str


class Kill(_Event, tag="kill", kw_only=True, frozen=True):
    """SIGKILL to the group."""

    name: str
    reason: str


class Stall(_Event, tag="stall", kw_only=True, frozen=True):
    """Beats are missing: not routed to until one comes."""

    name: str


class BackOff(_Event, tag="back_off", kw_only=True, frozen=True):
    """A pause before the next start."""

    name: str
    until: float


class GiveUp(_Event, tag="give_up", kw_only=True, frozen=True):
    """A server is failed for good, and with it the cluster."""

    name: str
    reason: str
    exit_code: int


class Abandon(_Event, tag="abandon", kw_only=True, frozen=True):
    """Even SIGKILL did not end it: it hangs in the kernel, and waiting on would be for ever."""

    name: str


class Finish(_Event, tag="finish", kw_only=True, frozen=True):
    """Nothing runs any more."""

    exit_code: int


Observation = Spawned | Reported | Exited | Routed | StopAsked | Woke | Noticed
Action = Spawn | Terminate | Kill | Stall | BackOff | GiveUp | Abandon | Finish
Event = Observation | Action
