"""What others see of the state: people (a status), the proxy (its members). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trtdisagg.protocol.control import ClusterStatus, Member, ServerStatus
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child import Child, Sample
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.server_plan import ChildPlan
from trtdisagg.supervisor.slots import LOOPBACK, join_address
from trtdisagg.supervisor.state import ClusterState

_ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}


def members(state: ClusterState, plan: Plan) -> list[Member]:
    """Servers that may be routed to: those that are ready, at the addresses they have now."""
    return [
        _member(server, state.children[server.name])
        for server in plan.servers
        if state.children[server.name].phase == "ready"
    ]


def _member(server: ChildPlan, child: Child) -> Member:
    assert child.ready is not None
    assert isinstance(server.spec, EngineSpec)
    return Member(
        name=server.name,
        role=server.spec.role,
        model=server.spec.model,
        url=_url(server, child),
        incarnation=child.incarnation or "",
        wire_version=child.ready.wire_version,
        max_seq_len=child.ready.max_seq_len or None,
        num_blocks=child.ready.num_blocks or None,
        tokens_per_block=child.ready.tokens_per_block or None,
    )


def status(
    state: ClusterState, plan: Plan, place: Place, *, now: float, agent_pid: int, events: Sequence[str] = ()
) -> ClusterStatus:
    """Everything `trtdisagg status` shows.

    :param events: the last few, as lines.
    """
    front = plan.proxy or plan.servers[0]
    return ClusterStatus(
        cluster=plan.cluster,
        state=_cluster_state(state),
        reason=state.stop.reason if state.stop else None,
        url=f"http://{_url(front, state.children[front.name])}",
        file=plan.file,
        fingerprint=plan.fingerprint,
        agent_pid=agent_pid,
        up_s=now - state.started_at,
        servers=[_server_status(p, state.children[p.name], place, now) for p in plan.children],
        events=list(events),
    )


def _cluster_state(state: ClusterState) -> Literal["starting", "ready", "degraded", "stopping", "failed"]:
    if state.stop is not None:
        return "failed" if any(c.phase == "failed" for c in state.children.values()) else "stopping"
    if state.ready_at is None:
        return "starting"
    return "ready" if state.all_ready else "degraded"


def _server_status(plan: ChildPlan, child: Child, place: Place, now: float) -> ServerStatus:
    tokens_in_s, tokens_out_s = _rates(child.samples)
    return ServerStatus(
        name=plan.name,
        role=plan.role,
        model=plan.model,
        state=child.phase,
        reason=child.reason,
        pid=child.pid,
        url=_url(plan, child),
        gpus=plan.gpus,
        cores=plan.cores,
        restarts=max(0, child.num_starts - 1),
        up_s=None if child.ready_at is None else now - child.ready_at,
        stats=child.stats,
        tokens_in_s=tokens_in_s,
        tokens_out_s=tokens_out_s,
        log_file=str(place.log_file(plan.name)),
    )


def _url(plan: ChildPlan, child: Child) -> str:
    """Where it can be reached: as it reported, or as planned."""
    host, port = (child.ready.host, child.ready.port) if child.ready else (plan.spec.host, plan.spec.port)
    return join_address(_ANY_ADDRESS.get(host, host), port)


def _rates(samples: Sequence[Sample]) -> tuple[float, float]:
    """Prompt and generated tokens a second between the first and the last beat that are kept."""
    if len(samples) < 2 or samples[-1].at <= samples[0].at:
        return 0.0, 0.0
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    return (
        (last.num_prompt_tokens - first.num_prompt_tokens) / seconds,
        (last.num_generation_tokens - first.num_generation_tokens) / seconds,
    )
