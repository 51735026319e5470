"""Limits of processes and of control groups against what the plan and its transports need. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding, size_words
from trtdisagg.supervisor.plan import Plan

NIXL_SHM_BYTES = 4400 * 1024
"""What UCX takes of /dev/shm in each process (4,232 KiB with UCX 1.21), whether it is used for transfers or not."""
_PROXY = "the proxy"
FILES_OF_A_REQUEST = 3
"""In the proxy: the client and, when generation takes over, both legs."""
FILES_OF_A_PROCESS = 128
"""Logs, pipes, listening sockets, libraries, peers."""
FILES_OF_A_CHILD = 8
"""In the agent: its pipes, its log, its pidfd, connections to it."""
_NO_READING = 2
"""From this ptrace_scope on."""


def cores(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    servers, num_cores = needs.on_cpu(plan), len(facts.cores)
    num_ranks = sum(server.num_ranks for server in servers)
    quota = f", of which the control group allows {facts.cpu_quota:g} at a time" if facts.cpu_quota is not None else ""
    found = f"{num_cores} to run on{quota}"
    ranks = f"{num_ranks} ranks of " if num_ranks > len(servers) else ""
    wanted = f"{ranks}{len(servers)} servers compute on them" if servers else ""
    usable = min(num_cores, facts.cpu_quota if facts.cpu_quota is not None else num_cores)
    if num_ranks > usable:
        remedy = "They slow each other down: start fewer servers, or allow more CPU"
        yield Finding(topic="CPU cores", severity="warning", found=found, needs=wanted, remedy=remedy)
    elif servers and usable < num_cores:
        remedy = f"Threads above the quota are stopped in mid-step: give {int(usable)} `cores` in the sections"
        yield Finding(topic="CPU cores", severity="warning", found=found, needs=wanted, remedy=remedy)
    else:
        yield Finding(topic="CPU cores", found=found, needs=wanted)


def open_files(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    wanted = _files_of_each(plan)
    found = f"at most {facts.open_files} in a process"
    if not wanted:
        yield Finding(topic="open files", found=found)
        return
    who, most = max(wanted.items(), key=lambda item: item[1])
    words = f"{who} may need {most}"
    if most <= facts.open_files:
        yield Finding(topic="open files", found=found, needs=words)
        return
    lower = "proxy.max_in_flight" if who == _PROXY else "max_queue_size"
    remedy = f"`ulimit -Hn {most}` (systemd: LimitNOFILE={most}), or lower {lower}"
    yield Finding(topic="open files", severity="warning", found=found, needs=words, remedy=remedy)


def _files_of_each(plan: Plan | None) -> dict[str, int]:
    if plan is None:
        return {}
    wanted = {"the supervisor": FILES_OF_A_PROCESS + FILES_OF_A_CHILD * len(plan.children)}
    if proxy := needs.proxy_spec(plan):
        wanted[_PROXY] = FILES_OF_A_PROCESS + FILES_OF_A_REQUEST * proxy.max_in_flight
    for server in plan.servers:
        spec = needs.engine_spec(server)
        wanted[server.name] = FILES_OF_A_PROCESS + spec.max_queue_size + spec.max_batch_size
    return wanted


def locked_memory(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    limit = facts.memlock_bytes
    found = "no limit" if limit is None else f"at most {size_words(limit)} in a process"
    users = [server for server in needs.using_ucx(plan) if not server.gpus]
    devices = ", ".join(facts.network_devices)
    if not users or not devices:
        why = "" if not users else "no RDMA device here, so nothing locks the KV pools"
        yield Finding(topic="locked memory", found=found, needs=why)
        return
    most = max(server.pool_bytes or 0 for server in users)
    wanted = f"NIXL registers a KV pool of {size_words(most)} with {devices}, which locks it"
    if limit is None or most <= limit:
        yield Finding(topic="locked memory", found=found, needs=wanted)
        return
    remedy = "`ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity; Docker: --ulimit memlock=-1)"
    yield Finding(topic="locked memory", severity="warning", found=found, needs=wanted, remedy=remedy)


def process_memory(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Within a host UCX reads host memory by process_vm_readv."""
    users = [s for s in needs.using_ucx(plan) if not (s.gpus or s in needs.using(plan, "local"))]
    found = f"kernel.yama.ptrace_scope is {facts.ptrace_scope}"
    if not users:
        return
    wanted = f"UCX (for NIXL) reads the memory of other processes in {needs.names(users)}"
    if facts.ptrace_scope < _NO_READING:
        yield Finding(topic="process memory", found=found, needs=wanted)
        return
    remedy = "Copies take a slower way: `sysctl kernel.yama.ptrace_scope=1`, or cache_transceiver_config.backend: LOCAL"
    yield Finding(topic="process memory", severity="warning", found=found, needs=wanted, remedy=remedy)


def shared_memory(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """KV pools are memfds, which do not count here; UCX, which NIXL uses, puts its queues there."""
    found = f"{size_words(facts.shm.free_bytes)} free in /dev/shm" if facts.shm else "there is no /dev/shm"
    users = needs.using_ucx(plan)
    if not users:
        why = "nothing in this plan uses it; KV pools of LOCAL lie elsewhere" if plan else ""
        yield Finding(topic="shared memory", found=found, needs=why)
        return
    wanted = NIXL_SHM_BYTES * len(users)
    words = f"UCX (for NIXL) takes {size_words(wanted)} in {needs.names(users)}"
    if facts.shm and (wanted <= facts.shm.free_bytes or facts.running_pid is not None):
        yield Finding(topic="shared memory", found=found, needs=words)
        return
    remedy = "Make it larger (`mount -o remount,size=1G /dev/shm`; Docker: --shm-size=1g), else UCX makes do with less"
    yield Finding(topic="shared memory", severity="warning", found=found, needs=words, remedy=remedy)
