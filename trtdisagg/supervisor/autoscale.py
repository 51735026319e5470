"""Which role is short of servers, which can spare one, and what follows. Pure.

    status of the cluster, bounds and targets, what was before -> a decision, with its reason in a line

A role is short when requests wait on its servers or they miss their target. The other role gives it a server where it
can spare one, because that costs neither weights nor memory; otherwise one is added. One change at a time, and a pause
after each, for it to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from trtdisagg.config.schema import AutoscaleBounds, AutoscaleConfig
from trtdisagg.protocol.control import ClusterStatus, ServerStatus

ScaledRole = Literal["context", "generation"]
Verb = Literal["keep", "add", "remove", "move"]
MARGIN = 0.7
"""A role can spare a server only while its latency is so far below its target."""


class Decision(msgspec.Struct, kw_only=True, frozen=True):
    """What to do, and why."""

    verb: Verb = "keep"
    role: ScaledRole | None = None
    """That gets or loses a server; of a move, that gets it."""
    server: str | None = None
    """Of a move: which."""
    count: int = 0
    """Servers of the role afterwards."""
    why: str

    @property
    def line(self) -> str:
        match self.verb:
            case "keep":
                return f"no change: {self.why}"
            case "move":
                return f"switch {self.server} to {self.role}: {self.why}"
        return f"{self.role}={self.count}: {self.why}"


class Memory(msgspec.Struct, kw_only=True, frozen=True):
    """What one decision leaves to the next."""

    changed_at: float | None = None
    spare_since: dict[str, float] = {}
    """By role: since when it could have done with one server less."""


class Load(msgspec.Struct, kw_only=True, frozen=True):
    """What the servers of one role have to do."""

    role: ScaledRole
    servers: list[ServerStatus]
    bounds: AutoscaleBounds
    target_ms: float | None
    """Of the role's latency."""

    @property
    def count(self) -> int:
        return len(self.servers)

    @property
    def waiting(self) -> float:
        """Requests that wait, a server."""
        return sum(s.stats.num_waiting for s in self.servers) / max(1, self.count)

    @property
    def busy(self) -> float:
        """Share of batch or KV cache in use, of all servers together."""
        return sum(map(_busy, self.servers)) / max(1, self.count)

    @property
    def latency_ms(self) -> float | None:
        """95th percentile of the slowest server: to the first token of context, per token of generation."""
        found = [s.ttft_p95_ms if self.role == "context" else s.tpot_p95_ms for s in self.servers]
        return max((ms for ms in found if ms is not None), default=None)


def decide(status: ClusterStatus, config: AutoscaleConfig, memory: Memory, now: float) -> tuple[Decision, Memory]:
    """
    :param now: on the clock of `memory`.
    """
    loads = [_load(status.servers, "context", config), _load(status.servers, "generation", config)]
    spare = {load.role: memory.spare_since.get(load.role, now) for load in loads if _can_spare(load, config)}
    memory = msgspec.structs.replace(memory, spare_since=spare)
    decision = _wait(status, config, memory, now) or _decide(loads, config, memory, now)
    changed_at = memory.changed_at if decision.verb == "keep" else now
    return decision, msgspec.structs.replace(memory, changed_at=changed_at)


def _wait(status: ClusterStatus, config: AutoscaleConfig, memory: Memory, now: float) -> Decision | None:
    """Whether the last change has to show first."""
    unsettled = [s for s in status.servers if s.state not in ("ready", "stopped", "failed")]
    if unsettled:
        return Decision(why=f"{unsettled[0].name} is {unsettled[0].state}")
    if memory.changed_at is not None and now < memory.changed_at + config.cooldown_s:
        return Decision(why=f"the last change was {now - memory.changed_at:.0f} s ago")
    return None


def _decide(loads: Sequence[Load], config: AutoscaleConfig, memory: Memory, now: float) -> Decision:
    short = sorted((load for load in loads if _shortage(load, config)), key=lambda load: -load.waiting)
    for load in short:
        (other,) = (o for o in loads if o.role != load.role)
        if decision := _relieve(load, other, config):
            return decision
    if short:
        reason = _shortage(short[0], config)
        return Decision(why=f"{short[0].role}: {reason}, but {short[0].count} is its maximum")
    for load in loads:
        idle_s = now - memory.spare_since.get(load.role, now)
        if load.role in memory.spare_since and idle_s >= config.cooldown_s:
            why = f"{load.busy:.0%} busy and nothing waiting for {idle_s:.0f} s"
            return Decision(verb="remove", role=load.role, count=load.count - 1, why=f"{load.role} is {why}")
    return Decision(why="; ".join(_words(load) for load in loads))


def _relieve(load: Load, other: Load, config: AutoscaleConfig) -> Decision | None:
    """A server for a role that is short of them: from the other role, or a new one."""
    if load.count >= load.bounds.max:
        return None
    why = f"{load.role}: {_shortage(load, config)}"
    if config.move and _can_spare(other, config):
        idlest = min(other.servers, key=lambda s: (s.stats.num_running + s.stats.num_waiting, -_number(s.name)))
        why += f", and {other.role} is only {other.busy:.0%} busy"
        return Decision(verb="move", role=load.role, server=idlest.name, count=load.count + 1, why=why)
    return Decision(verb="add", role=load.role, count=load.count + 1, why=why)


# --- one role -------------------------------------------------------------------------------------------------------


def _load(servers: Sequence[ServerStatus], role: ScaledRole, config: AutoscaleConfig) -> Load:
    return Load(
        role=role,
        servers=[s for s in servers if s.role == role and s.state == "ready"],
        bounds=config.context if role == "context" else config.generation,
        target_ms=config.target_ttft_ms if role == "context" else config.target_tpot_ms,
    )


def _shortage(load: Load, config: AutoscaleConfig) -> str | None:
    """Why a role needs more servers; None: it does not."""
    if load.count < load.bounds.min:
        return f"{load.count} of at least {load.bounds.min}"
    if load.waiting > config.target_waiting:
        return f"{load.waiting:.1f} requests wait on each server, {config.target_waiting:g} may"
    latency_ms = load.latency_ms
    if load.target_ms is not None and latency_ms is not None and latency_ms > load.target_ms:
        what = "time to first token" if load.role == "context" else "time per token"
        return f"p95 of the {what} is {latency_ms:.0f} ms, the target {load.target_ms:g} ms"
    return None


def _can_spare(load: Load, config: AutoscaleConfig) -> bool:
    """Whether one server less would still do."""
    if load.count <= max(1, load.bounds.min) or load.waiting or load.busy >= config.idle_share:
        return False
    return load.target_ms is None or (load.latency_ms or 0.0) < MARGIN * load.target_ms


def _busy(server: ServerStatus) -> float:
    stats = server.stats
    kv = stats.num_used_blocks / stats.num_blocks if stats.num_blocks else 0.0
    batch = stats.num_running / server.max_running if server.max_running else 0.0
    return max(kv, batch)


def _words(load: Load) -> str:
    latency = "" if load.latency_ms is None else f", p95 {load.latency_ms:.0f} ms"
    return f"{load.count} {load.role} {load.busy:.0%} busy, {load.waiting:.1f} waiting{latency}"


def _number(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
