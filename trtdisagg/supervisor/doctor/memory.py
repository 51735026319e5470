"""Memory of host and GPUs against weights, KV pools and the processes themselves. Pure.

The plan has divided what was free when it was made; here it is added up again, with what the plan leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.doctor.facts import Facts, GpuState
from trtdisagg.supervisor.doctor.finding import Finding, size_words
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.pools import on_place

PROCESS_BYTES = 350 * 2**20
"""Of an engine process beside weights and pool: Python, torch, activations of a small model."""
_SHARE_THAT_SWAPS = 0.8
_LOWER = "Lower kv_cache_config.max_tokens or num_instances, or free some memory"


def host(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    limit = facts.memory_limit_bytes
    bounded = f" (the control group allows {size_words(limit)})" if limit is not None else ""
    found = f"{size_words(facts.memory_bytes)} free{bounded}"
    if plan is None or facts.running_pid is not None:
        yield Finding(topic="memory", found=found, needs=_by_itself(facts))
        return
    pools, weights = _pools_and_weights(plan, None)
    processes = PROCESS_BYTES * sum(server.num_ranks for server in plan.servers)
    total = pools + weights + processes
    parts = f"{size_words(weights)} of weights, {size_words(pools)} of KV cache, {size_words(processes)} of processes"
    wanted = f"the plan needs about {size_words(total)} ({parts})"
    if pools + weights > facts.memory_bytes:
        yield Finding(topic="memory", severity="error", found=found, needs=wanted, remedy=_LOWER)
    elif total > facts.memory_bytes:
        yield Finding(topic="memory", severity="warning", found=found, needs=wanted, remedy=_LOWER)
    else:
        yield Finding(topic="memory", found=found, needs=wanted)


def gpus(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    driver = f", driver {facts.gpu_driver}" if facts.gpu_driver else ""
    for gpu in facts.gpus:
        found = f"{gpu.name}, {size_words(gpu.free_bytes)} of {size_words(gpu.total_bytes)} free{driver}"
        users = [server for server in needs.servers(plan) if gpu.id in server.gpus]
        if not users or facts.running_pid is not None:
            yield Finding(topic=f"GPU {gpu.id}", found=found, needs=_by_itself(facts))
        else:
            yield _gpu(gpu, users, plan, found)


def _gpu(gpu: GpuState, users: list[ChildPlan], plan: Plan | None, found: str) -> Finding:
    pools, weights = _pools_and_weights(plan, gpu.id)
    parts = f"{size_words(weights)} of weights, {size_words(pools)} of KV cache"
    wanted = f"{needs.names(users)} need {size_words(pools + weights)} ({parts})"
    if pools + weights > gpu.free_bytes:
        remedy = "See with nvidia-smi who has the memory, lower free_gpu_memory_fraction, or give other `gpus`"
        return Finding(topic=f"GPU {gpu.id}", severity="error", found=found, needs=wanted, remedy=remedy)
    return Finding(topic=f"GPU {gpu.id}", found=found, needs=wanted)


def swap(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """KV that was swapped out comes back at the speed of a disk."""
    if not facts.swap_bytes:
        yield Finding(topic="swap", found="none")
        return
    found = f"{size_words(facts.swap_used_bytes)} of {size_words(facts.swap_bytes)} used"
    pools, weights = _pools_and_weights(plan, None)
    if facts.running_pid is None and pools + weights > _SHARE_THAT_SWAPS * facts.memory_bytes:
        wanted = f"weights and KV cache fill {size_words(pools + weights)} of {size_words(facts.memory_bytes)}"
        remedy = f"What is swapped out stalls servers: `swapoff -a`, or {_LOWER.lower()}"
        yield Finding(topic="swap", severity="warning", found=found, needs=wanted, remedy=remedy)
    else:
        yield Finding(topic="swap", found=found)


def _pools_and_weights(plan: Plan | None, gpu: str | None) -> tuple[int, int]:
    """Of all ranks on a GPU, or with None in the host's memory."""
    servers = needs.servers(plan)
    pools = sum(on_place(server, server.rank_pools, ("", gpu)) for server in servers)
    return pools, sum(on_place(server, server.rank_weights, ("", gpu)) for server in servers)


def _by_itself(facts: Facts) -> str:
    return f"this cluster runs (pid {facts.running_pid}) and has its memory" if facts.running_pid else ""
