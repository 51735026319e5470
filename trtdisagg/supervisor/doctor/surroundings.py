"""Software, environment, clock and the wiring of GPUs against what the plan needs. Pure.

UCX reads its settings from the environment; a site's profile or a Slurm prolog may have set some that suit MPI programs
and cut a transfer of KV off from memory. What reaches each server is ours with the section's `env` on top.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding
from trtdisagg.supervisor.plan import Plan

PREFIXES = ("UCX_", "NIXL_", "NCCL_", "CUDA_", "OMP_", "TRTLLM_")
"""Of the variables that matter to servers."""
WITHIN_HOST = {"all", "sm", "shm", "mm", "posix", "sysv", "xpmem", "cma", "knem"}
"""UCX's names for the ways through the memory of a host."""
FOR_GPUS = {"all", "cuda", "cuda_copy", "cuda_ipc"}


def modules(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Whether what the engine half is made of is installed at all; that it loads, only a probe can tell."""
    if not needs.runs_builtin(plan):
        return
    needed = {"nixl"} if needs.using_ucx(plan) else set()
    missing = [name for name in facts.missing_modules if name in {"torch", *needed}]
    if missing:
        found = f"{', '.join(missing)} not installed"
        remedy = f"`pip install {' '.join(missing)}`"
        if missing == ["nixl"]:
            remedy += ", or cache_transceiver_config.backend: LOCAL on one host without GPUs"
        yield Finding(topic="packages", severity="error", found=found, needs="the engine needs them", remedy=remedy)
    else:
        yield Finding(topic="packages", found=", ".join([f"Python {facts.python}", "torch", *sorted(needed)]))


def environment(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    seen: dict[str, list[ChildPlan]] = {}
    for server in needs.using_ucx(plan):
        tls = needs.environment(server, facts.env).get("UCX_TLS")
        if tls is not None:
            seen.setdefault(tls, []).append(server)
    for tls, users in seen.items():
        yield from _ucx_tls(tls, users, injected=facts.is_slurm_job and facts.env.get("UCX_TLS") == tls)
    others = [f"{name}={value}" for name, value in sorted(facts.env.items()) if name != "UCX_TLS" or not seen]
    if others:
        yield Finding(topic="environment", found=" ".join(others), needs="servers inherit these")
    elif not seen:
        yield Finding(topic="environment", found="no variable that servers would inherit for UCX, NIXL, NCCL or CUDA")


def _ucx_tls(tls: str, users: list[ChildPlan], *, injected: bool) -> Iterator[Finding]:
    """
    :param injected: it comes with a job of Slurm, where a site's prolog may have set it for MPI programs.
    """
    wanted = f"{needs.names(users)} move KV by NIXL"
    found = f"UCX_TLS={tls}"
    if not allows(tls, WITHIN_HOST):
        unset = "`unset UCX_TLS` in the batch script (Slurm's prolog may set it)" if injected else "unset it"
        remedy = f"UCX would go over the network within this host, ten times slower: {unset}, or add `sm,self`"
        yield Finding(topic="environment", severity="warning", found=found, needs=wanted, remedy=remedy)
    elif any(server.gpus for server in users) and not allows(tls, FOR_GPUS):
        remedy = "UCX could not read GPU memory: unset it, or add `cuda`"
        yield Finding(topic="environment", severity="error", found=found, needs=wanted, remedy=remedy)
    else:
        yield Finding(topic="environment", found=found, needs=wanted)


def allows(tls: str, ways: set[str]) -> bool:
    """Whether a UCX_TLS lets UCX use one of some ways: a list of those to use, or behind `^` of those not to."""
    named = {name.strip().lstrip("\\") for name in tls.removeprefix("^").split(",")}
    if tls.startswith("^"):
        return not named & {"sm", "shm", "cuda"} & ways and bool(ways - {"all"} - named)
    return bool(named & ways)


def peer_access(_plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    for pair in facts.no_peer_access:
        found = f"GPUs {pair.one} and {pair.other} cannot read each other's memory ({pair.why})"
        remedy = "KV between them goes through host memory; `nvidia-smi topo -p2p r` shows which can"
        yield Finding(topic="GPU peers", severity="warning", found=found, remedy=remedy)


def clock(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Within a host only logs and certificates tell the time; between hosts logs are laid side by side."""
    words = {True: "kept right", False: "nothing keeps it right", None: "not known whether something keeps it right"}
    found = words[facts.clock_is_set]
    if facts.clock_is_set is False and plan is not None and plan.upstream:
        remedy = "Start chrony or systemd-timesyncd, else the logs of the hosts cannot be laid side by side"
        yield Finding(topic="clock", severity="warning", found=found, needs="servers on several hosts", remedy=remedy)
    else:
        yield Finding(topic="clock", found=found)
