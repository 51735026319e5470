"""What others see of the state: people (a status), whoever routes (its members). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from trtdisagg.net import join_address
from trtdisagg.protocol.control import ClusterStatus, Link, Member, Members, Need, ServerStatus
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor import links
from trtdisagg.supervisor.child import Child, Meeting
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.events import Exited
from trtdisagg.supervisor.hints import hints
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rates import rates
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.slots import LOOPBACK
from trtdisagg.supervisor.state import PROXY, ClusterState

_ANY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}
_COMING = ("starting", "loading", "ready", "stalled", "stopping", "backoff")
"""`ready`: and has to meet others first. `stopping`, not asked to leave: it is killed, to be started again."""
_KINDS: tuple[Need, ...] = ("context", "generation")

PlanOf = Callable[[str], ChildPlan]
"""The plan of a child, by its name."""


# --- for whoever routes ---------------------------------------------------------------------------------------------


def routable(state: ClusterState, plan: Plan, plan_of: PlanOf) -> Members:
    """Servers that may be routed to, at the addresses they have now, and what each model needs and may wait for."""
    members = links.routable(state)
    others = [child for child in state.children.values() if child.role != "proxy" and child not in members]
    return Members(
        members=[_member(plan_of(child.name), child) for child in members],
        needs=plan.needs,
        coming=_coming(others, plan_of) if state.stop is None else {},
    )


def left_address(before: ClusterState, event: Exited) -> str | None:
    """Address of a server that has ended because it was asked to; None: it was not, or is none.

    :param before: the state in which it ended.
    """
    child = next((c for c in before.children.values() if c.incarnation == event.incarnation), None)
    if child is None or child.role == PROXY or child.ready is None:
        return None
    is_asked = child.leaving is not None or before.stop is not None
    return join_address(child.ready.host, child.ready.port) if is_asked else None


def asked_for_tokens(state: ClusterState, plan_of: PlanOf) -> list[Member]:
    """Servers that should be able to generate, also those in doubt: a token brings them back."""
    there = [c for c in state.children.values() if c.role != PROXY and c.ready is not None and c.leaving is None]
    return [_member(plan_of(child.name), child) for child in there]


def _member(server: ChildPlan, child: Child) -> Member:
    assert child.ready is not None
    assert child.role != "proxy"
    assert isinstance(server.spec, EngineSpec)
    return Member(
        name=server.name,
        role=child.role,
        model=server.spec.model,
        url=_url(server, child),
        incarnation=child.incarnation or "",
        wire_version=child.ready.wire_version,
        max_seq_len=child.ready.max_seq_len or None,
        num_blocks=child.ready.num_blocks or None,
        tokens_per_block=child.ready.tokens_per_block or None,
        max_batch_size=child.ready.max_batch_size or None,
    )


def _coming(servers: Sequence[Child], plan_of: PlanOf) -> dict[str, list[Need]]:
    """Roles that a server is about to have (again).

    :param servers: those that are not routed to.
    """
    roles: dict[str, set[str]] = {}
    for child in servers:
        is_coming = child.phase in _COMING and child.leaving is None
        role = child.leaving.role or child.role if child.leaving and child.stays else child.role
        if child.is_wanted and (is_coming or (child.leaving is not None and child.stays)):
            roles.setdefault(plan_of(child.name).model or "", set()).add(role)
    return {model: [kind for kind in _KINDS if mine & {kind, "both"}] for model, mine in roles.items()}


# --- for people -----------------------------------------------------------------------------------------------------


def status(
    state: ClusterState,
    plan: Plan,
    plan_of: PlanOf,
    place: Place,
    *,
    now: float,
    agent_pid: int,
    others: Sequence[Member] = (),
    autoscale: str | None = None,
    events: Sequence[str] = (),
) -> ClusterStatus:
    """Everything `trtdisagg status` shows.

    :param others: servers that the proxy knows from elsewhere.
    :param autoscale: the autoscaler's last decision.
    :param events: the last few, as lines.
    """
    children = sorted(state.children.values(), key=_order)
    unmet = links.unmet(state)
    servers = [
        _server_status(plan_of(child.name), child, state, unmet=unmet.get(child.name, []), place=place, now=now)
        for child in children
    ]
    return ClusterStatus(
        cluster=plan.cluster,
        state=_cluster_state(state),
        reason=state.stop.reason if state.stop else None,
        url=url(state, plan),
        file=plan.file,
        fingerprint=plan.fingerprint,
        agent_pid=agent_pid,
        up_s=now - state.started_at,
        servers=servers,
        links=_links(state),
        others=list(others),
        hints=hints(servers, {child.name: child.window for child in children}, now),
        autoscale=autoscale,
        events=list(events),
    )


def url(state: ClusterState, plan: Plan) -> str:
    """Where clients go; empty: nowhere."""
    front = next(iter(plan.children), None)
    if front is None:
        return ""
    scheme = "https" if isinstance(front.spec, ProxySpec) and front.spec.tls else "http"
    return f"{scheme}://{_url(front, state.children.get(front.name))}"


def _order(child: Child) -> tuple[int, str, int]:
    """The proxy, then by group and number."""
    name = parse_name(child.name)
    return 0 if child.role == PROXY else 1, name.group, name.number


def _cluster_state(state: ClusterState) -> Literal["starting", "ready", "degraded", "stopping", "failed"]:
    if state.stop is not None:
        return "failed" if any(c.phase == "failed" for c in state.children.values()) else "stopping"
    if state.ready_at is None:
        return "starting"
    return "ready" if state.all_ready else "degraded"


def _server_status(
    plan: ChildPlan, child: Child, state: ClusterState, *, unmet: Sequence[str], place: Place, now: float
) -> ServerStatus:
    """
    :param unmet: servers that it has to meet before it is routed to.
    """
    engine = plan.spec if isinstance(plan.spec, EngineSpec) else None
    return ServerStatus(
        name=child.name,
        role=child.role,
        model=plan.model,
        model_path=engine.model_path if engine else None,
        state=child.phase,
        reason=child.reason or _waiting_words(unmet),
        pid=child.pid,
        pids=list(child.pids),
        parallel=engine.parallel if engine else None,
        url=_url(plan, child),
        nodes=plan.nodes,
        gpus=plan.gpus,
        cores=plan.cores,
        restarts=max(0, child.num_starts - 1),
        up_s=None if child.ready_at is None else now - child.ready_at,
        stats=child.stats,
        history=child.history.until(now),
        in_use=state.in_use(child),
        max_running=engine.max_batch_size if engine else None,
        max_seq_len=engine.max_seq_len if engine else None,
        kv_tokens=engine.num_blocks * engine.tokens_per_block if engine else None,
        kv_bytes=plan.pool_bytes,
        deadline_s=max(0.0, child.leaving.deadline - now) if child.leaving else None,
        log_file=str(place.log_file(plan.name)),
        **msgspec.structs.asdict(rates(child.window, now)),
    )


def _waiting_words(others: Sequence[str]) -> str | None:
    return f"not routed to yet: KV links with {', '.join(others)} are tried first" if others else None


def _links(state: ClusterState) -> list[Link]:
    found = [(child.name, meeting) for child in state.children.values() for meeting in links.current(state, child)]
    return [_link(name, meeting) for name, meeting in sorted(found, key=lambda f: (f[1].peer.server, f[0]))]


def _link(generation: str, meeting: Meeting) -> Link:
    link = meeting.link or Linked(server=meeting.peer.server, incarnation=meeting.peer.incarnation)
    return Link(
        context=link.server,
        generation=generation,
        is_open=meeting.link is not None,
        transport=link.transport,
        direction=link.direction,
        gb_s=link.gb_s,
        latency_us=link.latency_us,
        error=link.error,
    )


def _url(plan: ChildPlan, child: Child | None) -> str:
    """Where it can be reached: as it reported, or as planned."""
    ready = child.ready if child else None
    host, port = (ready.host, ready.port) if ready else (plan.spec.host, plan.spec.port)
    return join_address(_ANY_ADDRESS.get(host, host), port)
