"""Which role is short of servers, which can spare one, and what follows. Pure.

    status of the cluster, bounds and targets, what was before -> a decision, with its reason in a line

A role is short when requests wait on its servers or they miss their target. The other role gives it a server where it
can spare one, because that costs neither weights nor memory; otherwise one is added. One change at a time, and a pause
after each, for it to show; latencies are those of the last minute, so they tell nothing new until it is over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import AutoscaleBounds, AutoscaleConfig
from trtdisagg.protocol.control import ClusterStatus, ServerStatus
from trtdisagg.supervisor.rates import LATENCY_WINDOW_S
from trtdisagg.supervisor.server_name import parse_name

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
    """When the last decision had been carried out, or had failed."""
    spare_since: dict[str, float] = {}
    """By role: since when it could have done with one server less."""

    def changed(self, now: float) -> Memory:
        """A decision was carried out, or failed: whatever was seen before was seen of other servers."""
        return Memory(changed_at=now)


class Load(msgspec.Struct, kw_only=True, frozen=True):
    """What the servers of one role have to do."""

    role: ScaledRole
    servers: list[ServerStatus]
    bounds: AutoscaleBounds
    target_ms: float | None
    """Of the role's latency."""
    num_queued: int = 0
    """Requests that wait in the proxy for one of these servers."""

    @property
    def count(self) -> int:
        return len(self.servers)

    @property
    def waiting(self) -> float:
        """Requests that wait, a server."""
        return (self.num_queued + sum(s.stats.num_waiting for s in self.servers)) / max(1, self.count)

    @property
    def busy(self) -> float:
        """Share of batch or KV cache in use, of all servers together."""
        return sum(map(_busy, self.servers)) / max(1, self.count)

    @property
    def latency_ms(self) -> float | None:
        """95th percentile of the slowest server: to the first token of context, per token of generation."""
        found = [s.ttft_p95_ms if self.role == "context" else s.tpot_p95_ms for s in self.servers]
        return max((ms for ms in found if ms is not None), default=None)


def by_model(status: ClusterStatus) -> dict[str, ClusterStatus]:
    """What the autoscaler sees of each model, by the name that its servers' names begin with (of one model: empty)."""
    proxies = [server for server in status.servers if server.role == "proxy"]
    found: dict[str, list[ServerStatus]] = {}
    for server in status.servers:
        if server.role != "proxy":
            found.setdefault(parse_name(server.name).model, []).append(server)
    return {model: replace(status, servers=[*proxies, *found[model]]) for model in sorted(found)} or {"": status}


def decide(status: ClusterStatus, config: AutoscaleConfig, memory: Memory, now: float) -> tuple[Decision, Memory]:
    """
    :param status: of one model.
    :param now: on the clock of `memory`.
    :returns: what to do, and what to remember; once it is done, `Memory.changed` is.
    """
    loads = [_load(status.servers, "context", config), _load(status.servers, "generation", config)]
    if waits := _wait(status, config, memory, now):
        return Decision(why=waits), Memory(changed_at=memory.changed_at)
    is_new = memory.changed_at is None or now >= memory.changed_at + LATENCY_WINDOW_S
    can_spare: list[str] = [load.role for load in loads if _can_spare(load, config)]
    spare = {role: memory.spare_since.get(role, now) for role in can_spare}
    decision = _help(loads, config, is_new=is_new) or _save(loads, spare, config, now)
    return decision, Memory(changed_at=memory.changed_at, spare_since=spare)


def _wait(status: ClusterStatus, config: AutoscaleConfig, memory: Memory, now: float) -> str | None:
    """Why nothing can be decided now: what happens has to be over, and the last change to show."""
    if status.state not in ("ready", "degraded"):
        return f"the cluster is {status.state}"
    unsettled = [s for s in status.servers if s.state not in ("ready", "stopped", "failed")]
    if unsettled:
        return f"{unsettled[0].name} is {unsettled[0].state}"
    if memory.changed_at is not None and now < memory.changed_at + config.cooldown_s:
        return f"the last change was {now - memory.changed_at:.0f} s ago"
    return None


def _help(loads: Sequence[Load], config: AutoscaleConfig, *, is_new: bool) -> Decision | None:
    """What is done for a role that is short of servers; None: none is.

    :param is_new: latencies are of what runs now.
    """
    found = [(load, why) for load in loads if (why := _shortage(load, config, is_new=is_new))]
    short = sorted(found, key=lambda pair: (pair[0].count >= pair[0].bounds.min, -pair[0].waiting))
    for load, why in short:
        (other,) = (o for o in loads if o.role != load.role)
        if load.count < load.bounds.max:
            return _relieve(load, other, config, why)
    return Decision(why="; ".join(f"{why}, but {o.count} is the maximum" for o, why in short)) if short else None


def _save(loads: Sequence[Load], spare: Mapping[str, float], config: AutoscaleConfig, now: float) -> Decision:
    """A role that could have done with one server less for a whole pause loses one."""
    words = []
    for load in loads:
        idle_s = now - spare.get(load.role, now)
        if load.role in spare and idle_s >= config.cooldown_s:
            why = f"{load.role} is {load.busy:.0%} busy and nothing waited for {idle_s:.0f} s"
            return Decision(verb="remove", role=load.role, count=load.count - 1, why=why)
        could = f", one could go in {config.cooldown_s - idle_s:.0f} s" if load.role in spare else ""
        words.append(_words(load) + could)
    return Decision(why="; ".join(words))


def _relieve(load: Load, other: Load, config: AutoscaleConfig, why: str) -> Decision:
    """A server for a role that is short of them: from the other role, or a new one."""
    if config.move and _can_spare(other, config):
        idlest = min(
            other.servers, key=lambda s: (s.stats.num_running + s.stats.num_waiting, -parse_name(s.name).number)
        )
        why += f", and {other.role} is only {other.busy:.0%} busy"
        return Decision(verb="move", role=load.role, server=idlest.name, count=load.count + 1, why=why)
    return Decision(verb="add", role=load.role, count=load.count + 1, why=why)


# --- one role -------------------------------------------------------------------------------------------------------


def _load(servers: Sequence[ServerStatus], role: ScaledRole, config: AutoscaleConfig) -> Load:
    mine = [s for s in servers if s.role == role and s.state == "ready"]
    return Load(
        role=role,
        servers=mine,
        num_queued=_num_queued(servers, {s.model for s in mine}) if role == "generation" else 0,
        bounds=config.context if role == "context" else config.generation,
        target_ms=config.target_ttft_ms if role == "context" else config.target_tpot_ms,
    )


def _num_queued(servers: Sequence[ServerStatus], models: Collection[str | None]) -> int:
    """In all proxies, for these models. A proxy admits a request when a generation server has room for it."""
    proxies = [s.stats.num_waiting_by_model for s in servers if s.role == "proxy"]
    return sum(count for waiting in proxies for model, count in waiting.items() if model in models)


def _shortage(load: Load, config: AutoscaleConfig, *, is_new: bool) -> str | None:
    """Why a role needs more servers; None: it does not."""
    if load.count < load.bounds.min:
        return f"{load.role} has {load.count} of at least {load.bounds.min}"
    if load.waiting > config.target_waiting:
        return f"{load.waiting:.1f} requests wait on each {load.role} server, {config.target_waiting:g} may"
    latency_ms = load.latency_ms
    if is_new and load.target_ms is not None and latency_ms is not None and latency_ms > load.target_ms:
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
