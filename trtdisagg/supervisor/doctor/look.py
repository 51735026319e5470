"""Gathers the facts about this machine. Touches everything, decides nothing, and takes under 0.1 s."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import resource
import stat
from collections.abc import Mapping
from pathlib import Path

import psutil

from trtdisagg.errors import StartupError
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.doctor import cgroups, needs
from trtdisagg.supervisor.doctor.facts import Disk, Facts
from trtdisagg.supervisor.doctor.gpu_facts import ask_driver
from trtdisagg.supervisor.doctor.surroundings import PREFIXES
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.ports import check_free

_CAP_IPC_LOCK = 14
_CAP_SYS_PTRACE = 19
_NOBODY_READS = 3
"""The ptrace_scope that no capability overrules."""
_STA_UNSYNC = 0x40
_PEER_MEMORY = ("nvidia_peermem", "nv_peer_mem")
_MODULES = ("torch", "nixl")


def look(plan: Plan | None, place: Place, env: Mapping[str, str] = os.environ) -> Facts:
    """
    :param plan: None: the machine as such.
    :param place: where the cluster's directories are, or would be.
    """
    host = discover(env=env)
    driver = ask_driver(host.gpus, {gpu for server in needs.servers(plan) for gpu in server.gpus})
    swap = psutil.swap_memory()
    busy = _busy(plan)
    running_pid = rundir.running_pid(place)  # an agent is seen before its ports are taken, so: after we looked at them
    return Facts(
        cores=host.cores,
        cpu_quota=cgroups.cpu_quota(),
        memory_bytes=host.memory_bytes,
        memory_limit_bytes=cgroups.memory_limit_bytes(),
        swap_bytes=swap.total,
        swap_used_bytes=swap.used,
        shm=_disk(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,  # noqa: S108 (only looked at)
        memlock_bytes=_memlock_bytes(),
        ptrace_scope=_ptrace_scope(),
        network_devices=_names(Path("/sys/class/infiniband")),
        interfaces=_names(Path("/sys/class/net")),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        state=_disk(place.log_dir),
        hub_cache=_disk(_hub_cache(env)),
        runtime=_disk(place.run_dir),
        runtime_is_fallback=_is_fallback(place, env),
        busy=busy if running_pid is None else {},
        running_pid=running_pid,
        secret_mode=_mode(plan.secret_file) if plan and plan.secret_file else None,
        python=platform.python_version(),
        missing_modules=[name for name in _MODULES if importlib.util.find_spec(name) is None],
        env={name: value for name, value in env.items() if name.startswith(PREFIXES)},
        is_slurm_job="SLURM_JOB_ID" in env,
        clock_is_set=_clock_is_set(),
        gpus=driver.gpus,
        gpu_driver=driver.version,
        driver_is_open="Open Kernel Module" in _text(Path("/proc/driver/nvidia/version")),
        peer_memory_module=next((name for name in _PEER_MEMORY if Path("/sys/module", name).is_dir()), None),
        no_peer_access=driver.no_peer_access,
    )


# --- limits ---------------------------------------------------------------------------------------------------------


def _memlock_bytes() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if soft == resource.RLIM_INFINITY or _may(_CAP_IPC_LOCK) else soft


def _ptrace_scope() -> int:
    """0 where there is no Yama, or it does not count for us."""
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        return 0
    return 0 if scope < _NOBODY_READS and _may(_CAP_SYS_PTRACE) else scope


def _may(capability: int) -> bool:
    return has_capability(Path("/proc/self/status").read_text(), capability)


def has_capability(status: str, capability: int) -> bool:
    """
    :param status: of a process, as in /proc/PID/status.
    """
    effective = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(effective.split()[1], 16) >> capability & 1)


def raise_open_files() -> None:
    """Let this process and the children it will have open as many files as its user may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- places ---------------------------------------------------------------------------------------------------------


def _disk(path: Path) -> Disk:
    """What a directory that may not be there yet will be on."""
    there = next(p for p in (path, *path.parents) if p.is_dir())
    found = os.statvfs(there)
    return Disk(
        path=str(there),
        free_bytes=found.f_bavail * found.f_frsize,
        filesystem=_filesystem(there),
        is_writable=os.access(there, os.W_OK | os.X_OK),
    )


def _filesystem(path: Path) -> str:
    real = path.resolve()
    mounts = [p for p in psutil.disk_partitions(all=True) if real.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else ""


def _hub_cache(env: Mapping[str, str]) -> Path:
    """Where huggingface_hub puts models."""
    home = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(env.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser().absolute()


def _is_fallback(place: Place, env: Mapping[str, str]) -> bool:
    wanted = env.get("XDG_RUNTIME_DIR")
    return bool(wanted) and not place.run_dir.is_relative_to(str(wanted))


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _mode(file: str) -> int | None:
    try:
        return stat.S_IMODE(Path(file).stat().st_mode)
    except OSError:
        return None


def _busy(plan: Plan | None) -> dict[str, str]:
    busy = {}
    for child in plan.children if plan else []:
        if child.spec.port:
            try:
                check_free(child.spec.host, child.spec.port, child.name)
            except StartupError as e:
                busy[child.name] = e.message
    return busy


# --- the clock ------------------------------------------------------------------------------------------------------


class _Timex(ctypes.Structure):
    """The beginning of the kernel's struct; what follows `status` is not looked at."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def _clock_is_set() -> bool | None:
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return None  # a container may be kept from asking
    return not timex.status & _STA_UNSYNC
