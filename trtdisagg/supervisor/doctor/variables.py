"""Variables of UCX and NCCL that are known to slow a transfer of KV down or to stop it: a table, and its rules. Pure.

Each is a thing that people ran into. What reaches a server is our environment with its section's `env` on top. That
`UCX_TLS` lets UCX reach memory at all is looked at in `surroundings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding
from trtdisagg.supervisor.plan import Plan

_YES = {"y", "yes", "1", "on", "true"}


class Trap(msgspec.Struct, frozen=True):
    """A variable with a value that does harm."""

    name: str
    is_bad: Callable[[str, ChildPlan, Facts], bool]
    why: str
    remedy: str


def _on_gpu_and(words: set[str]) -> Callable[[str, ChildPlan, Facts], bool]:
    return lambda value, server, _facts: bool(server.gpus) and value.lower() in words


def _missing_device(value: str, _server: ChildPlan, facts: Facts) -> bool:
    """UCX names RDMA devices with their port, `mlx5_0:1`, and network interfaces as they are; `^`: all but these."""
    if value.startswith("^"):
        return False
    named = [name.strip().partition(":")[0] for name in value.split(",")]
    there = {*facts.network_devices, *facts.interfaces, "all"}
    return not any(name in there for name in named)


def _several_domains(value: str, server: ChildPlan, facts: Facts) -> bool:
    return bool(server.gpus) and value.lower() in _YES and len({gpu.domain for gpu in facts.gpus}) > 1


TRAPS = (
    Trap(
        "UCX_NET_DEVICES",
        _missing_device,
        "none of these devices is on this host, so UCX has no way to others",
        "Unset it, or name a device that `ls /sys/class/infiniband /sys/class/net` shows",
    ),
    Trap(
        "UCX_CUDA_IPC_ENABLE_MNNVL",
        _several_domains,
        "the GPUs are in several NVLink domains, between which NVLink does not reach",
        "Set UCX_CUDA_IPC_ENABLE_MNNVL=n",
    ),
    Trap(
        "NCCL_MNNVL_ENABLE",
        lambda value, server, facts: _several_domains("y" if value == "1" else "n", server, facts),
        "the GPUs are in several NVLink domains, and NCCL hangs when it tries to cross them",
        "Unset it, or set NCCL_MNNVL_ENABLE=0",
    ),
    Trap(
        "UCX_MEMTYPE_CACHE",
        _on_gpu_and(_YES),
        "UCX then may take GPU memory for host memory, and copies it without NVLink",
        "Set UCX_MEMTYPE_CACHE=n",
    ),
    Trap(
        "UCX_CUDA_COPY_DMABUF",
        _on_gpu_and(_YES),
        "with UCX 1.18 it keeps transfers between GPUs from NVLink",
        "Set UCX_CUDA_COPY_DMABUF=no",
    ),
    Trap(
        "UCX_RNDV_SCHEME",
        _on_gpu_and({"am"}),
        "large messages go in fragments through host memory",
        "Unset it, or set get_zcopy",
    ),
    Trap(
        "NCCL_P2P_DISABLE",
        lambda value, server, _facts: len(server.gpus) > 1 and value == "1",
        "the ranks of a server then add up through host memory",
        "Unset it, unless the machine hangs without",
    ),
)


def traps(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Each variable of the table that does harm to some server, once for each value."""
    movers = [server for server in needs.servers(plan) if needs.by_ucx(server) or len(server.gpus) > 1]
    for trap in TRAPS:
        values: dict[str, list[ChildPlan]] = {}
        for server in movers:
            value = needs.environment(server, facts.env).get(trap.name)
            if value is not None and trap.is_bad(value, server, facts):
                values.setdefault(value, []).append(server)
        for value, users in values.items():
            yield Finding(
                topic="environment",
                severity="warning",
                found=f"{trap.name}={value}",
                needs=f"{trap.why} ({needs.names(users)})",
                remedy=trap.remedy,
            )


def contention(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Ranks that each send over two rails get into each other's way when both sides are divided."""
    wide = [server for server in needs.servers(plan) if needs.by_ucx(server) and len(server.gpus) > 1]
    roles = {server.role for server in wide}
    if {"context", "generation"} <= roles and facts.network_devices:
        unset = [s for s in wide if "UCX_MAX_RNDV_RAILS" not in needs.environment(s, facts.env)]
        if unset:
            yield Finding(
                topic="environment",
                found="UCX_MAX_RNDV_RAILS is not set, which means 2",
                needs="servers of several ranks on both sides: UCX_MAX_RNDV_RAILS=1 may be faster between hosts",
            )
