"""What was seen of a machine, as plain values."""

from __future__ import annotations

import msgspec


class Disk(msgspec.Struct, kw_only=True, frozen=True):
    """A directory that will be written to, or its nearest parent that is there."""

    path: str
    free_bytes: int
    filesystem: str = ""
    is_writable: bool = True


class GpuState(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    """As in a plan."""
    name: str
    free_bytes: int
    total_bytes: int
    domain: str | None = None
    """UUID of the NVLink domain (`Fabric.ClusterUUID`) that it is in, across hosts; None: in none."""


class NoPeerAccess(msgspec.Struct, kw_only=True, frozen=True):
    """Two GPUs that cannot read each other's memory."""

    one: str
    other: str
    why: str


class Facts(msgspec.Struct, kw_only=True, frozen=True):
    # cores and memory
    cores: list[int]
    """CPU cores that this process may run on."""
    cpu_quota: float | None = None
    """Cores' worth of time that the control group allows; None: no limit."""
    memory_bytes: int
    """Free for use: of the machine, or of the control group."""
    memory_limit_bytes: int | None = None
    """Of the control group; None: none below the machine's own."""
    swap_bytes: int = 0
    swap_used_bytes: int = 0

    # limits
    shm: Disk | None = None
    """Where POSIX shared memory lies; None: nowhere."""
    memlock_bytes: int | None = None
    """Of memory that may be locked; None: no limit."""
    ptrace_scope: int = 0
    """Of the kernel's Yama: from 2 on processes of one user cannot read each other's memory; 0 with the capability."""
    network_devices: list[str] = []
    """RDMA devices, with which registered memory is locked."""
    interfaces: list[str] = []
    """Network interfaces."""
    open_files: int
    """The hard limit: ours is raised to it."""

    # places
    state: Disk
    hub_cache: Disk
    runtime: Disk
    runtime_is_fallback: bool = False
    """XDG_RUNTIME_DIR is set but cannot be used."""
    busy: dict[str, str] = {}
    """Child: why its address cannot be listened on."""
    running_pid: int | None = None
    """Of the agent, where this very cluster runs already: then ports and memory are taken by itself."""
    secret_mode: int | None = None
    """Permission bits of the secret's file; None: it has none."""

    # software and surroundings
    python: str = ""
    """Its version, which servers run with, too."""
    missing_modules: list[str] = []
    """Of those that the engine half needs."""
    env: dict[str, str] = {}
    """What of our environment reaches UCX, NIXL, NCCL and CUDA in the servers."""
    is_slurm_job: bool = False
    clock_is_set: bool | None = None
    """Whether something keeps the clock right; None: not known."""
    gpus: list[GpuState] = []
    gpu_driver: str | None = None
    driver_is_open: bool = False
    """The kernel's part of it is the open one, which hands device memory out as dma-bufs."""
    peer_memory_module: str | None = None
    """Kernel module through which network devices reach GPU memory, where it is loaded."""
    no_peer_access: list[NoPeerAccess] = []
    """Among the GPUs of the plan."""
