"""What lies between GPUs, and between GPUs and the network: NVLink domains, GPUDirect RDMA. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding
from trtdisagg.supervisor.plan import Plan

_MNNVL = "UCX_CUDA_IPC_ENABLE_MNNVL"


def nvlink_domains(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Only within one domain can a GPU of another host be read by NVLink; servers in several must not try."""
    of_gpu = {gpu.id: gpu.domain for gpu in facts.gpus}
    used = {gpu: of_gpu.get(gpu) for server in needs.servers(plan) for gpu in server.gpus} or of_gpu
    domains = {gpu: domain for gpu, domain in used.items() if domain is not None}
    if not domains:
        return
    found = ", ".join(f"GPU {gpu} in {domain}" for gpu, domain in domains.items())
    if len(set(used.values())) > 1:
        yield Finding(
            topic="NVLink domain",
            severity="warning",
            found=found if len(domains) == len(used) else f"{found}, others in none",
            needs="UCX may try to read across domains by NVLink, and fails or hangs",
            remedy=f"Set {_MNNVL}=n in `env` of the sections, or place servers that exchange KV in one domain",
        )
        return
    words = f"between hosts `doctor` must show the same UUID on each; where it does not, set {_MNNVL}=n"
    yield Finding(topic="NVLink domain", found=found, needs=words)


def gpudirect(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    """Whether a network device reads GPU memory itself, or KV is copied through host memory first."""
    if not facts.gpus or not facts.network_devices:
        return
    devices = ", ".join(facts.network_devices)
    if facts.peer_memory_module:
        yield Finding(topic="GPUDirect RDMA", found=f"{facts.peer_memory_module} is loaded", needs=f"for {devices}")
    elif facts.driver_is_open:
        yield Finding(topic="GPUDirect RDMA", found="by dma-buf (open kernel driver)", needs=f"for {devices}")
    else:
        is_needed = any(server.gpus for server in needs.using(plan, "nixl") + needs.using(plan, "ucx"))
        yield Finding(
            topic="GPUDirect RDMA",
            severity="warning" if is_needed or plan is None else "ok",
            found="neither nvidia_peermem nor an open kernel driver (dma-buf)",
            needs=f"{devices} cannot reach GPU memory: KV between hosts goes through host memory",
            remedy="`modprobe nvidia-peermem`, or install the driver with its open kernel modules",
        )
