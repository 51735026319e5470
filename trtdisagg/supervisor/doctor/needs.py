"""What the servers of a plan have in common that a machine must give. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.plan import Plan


def servers(plan: Plan | None) -> list[ChildPlan]:
    return plan.servers if plan else []


def on_cpu(plan: Plan | None) -> list[ChildPlan]:
    return [server for server in servers(plan) if not server.gpus]


def builtin(plan: Plan | None) -> list[ChildPlan]:
    """Those that run the engine of this package; others come with what they need."""
    return [server for server in servers(plan) if server.argv[:3] == [sys.executable, "-m", "trtdisagg.engine"]]


def runs_builtin(plan: Plan | None) -> bool:
    """Whether the engine half is used at all; without a plan it may be."""
    return plan is None or bool(builtin(plan))


def using(plan: Plan | None, transport: str) -> list[ChildPlan]:
    """The servers that open a transport."""
    return [server for server in servers(plan) if transport in engine_spec(server).transfer.transports]


def using_ucx(plan: Plan | None) -> list[ChildPlan]:
    """Those that move KV by UCX, in whichever way they came to it."""
    return [server for server in servers(plan) if by_ucx(server)]


def by_ucx(server: ChildPlan) -> bool:
    return not {"nixl", "ucx"}.isdisjoint(engine_spec(server).transfer.transports)


def environment(server: ChildPlan, ours: Mapping[str, str]) -> Mapping[str, str]:
    """What a server gets: our variables, and over them its own."""
    return {**ours, **server.env}


def engine_spec(server: ChildPlan) -> EngineSpec:
    assert isinstance(server.spec, EngineSpec)
    return server.spec


def proxy_spec(plan: Plan | None) -> ProxySpec | None:
    spec = plan.proxy.spec if plan and plan.proxy else None
    return spec if isinstance(spec, ProxySpec) else None


def names(children: list[ChildPlan]) -> str:
    """For messages: all of a few, else how many."""
    few = ", ".join(child.name for child in children)
    return few if len(children) <= 3 else f"{len(children)} servers"
