"""What this machine has: CPU cores, free memory, GPUs, and which names in `urls` mean it.

GPUs are asked of the driver's management library, never of torch. `CUDA_VISIBLE_DEVICES` of this process bounds what
is there, as it would bound its children.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

_CGROUP = Path("/sys/fs/cgroup")


class Gpu(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    """As it goes into CUDA_VISIBLE_DEVICES: an index in PCI order, or a UUID where ours has UUIDs."""
    uuid: str
    name: str
    free_bytes: int
    cores: list[int] = []
    """CPU cores near it; empty: not known."""


class Host(msgspec.Struct, kw_only=True, frozen=True):
    cores: list[int]
    """CPU cores that this process may run on."""
    nodes: list[list[int]] = []
    """The same by NUMA node, threads of one physical core side by side; empty: not known."""
    memory_bytes: int
    """Free for use: of the machine, or of the control group we are in."""
    gpus: list[Gpu] = []
    local_names: frozenset[str] = frozenset()
    """Of the hosts that were asked about, those that are this machine."""
    notices: list[str] = []


def discover(hosts: Iterable[str] = (), env: Mapping[str, str] = os.environ) -> Host:
    """Look at this machine.

    :param hosts: names and addresses of which to find out whether they are this machine's.
    """
    gpus, notices = _gpus(env.get("CUDA_VISIBLE_DEVICES"))
    return Host(
        cores=sorted(os.sched_getaffinity(0)),
        memory_bytes=_free_memory(),
        gpus=gpus,
        local_names=_local_names(hosts),
        notices=notices,
    )


# --- memory ---------------------------------------------------------------------------------------------------------


def _free_memory() -> int:
    return min([psutil.virtual_memory().available, *_cgroup_rooms()])


def _cgroup_rooms() -> Iterator[int]:
    """What each control group we are in still allows: a container may have far less than its machine."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _rooms(_CGROUP, path, "memory.max", "memory.current")
        elif controllers == "memory":
            yield from _rooms(_CGROUP / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _rooms(base: Path, path: str, limit_file: str, usage_file: str) -> Iterator[int]:
    group = base / path.lstrip("/")
    for directory in (group, *group.parents):
        if not directory.is_relative_to(base):
            return
        # A group without a limit says `max`; the root of the tree has no such files.
        with contextlib.suppress(OSError, ValueError):
            limit = int((directory / limit_file).read_text())
            yield max(0, limit - int((directory / usage_file).read_text()))


# --- GPUs -----------------------------------------------------------------------------------------------------------


def _gpus(visible: str | None) -> tuple[list[Gpu], list[str]]:
    """The usable GPUs, and what to tell people of the others."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return [], []
    except pynvml.NVMLError as e:
        return [], [f"The GPUs cannot be used: {e}"]
    try:
        return _usable(pynvml, visible)
    finally:
        pynvml.nvmlShutdown()


def _usable(nvml: Any, visible: str | None) -> tuple[list[Gpu], list[str]]:
    gpus, notices = [], []
    entries = range(nvml.nvmlDeviceGetCount()) if visible is None else _entries(visible)
    for entry in entries:
        try:
            gpus.append(_gpu(nvml, str(entry)))
        except nvml.NVMLError as e:
            notices.append(f"GPU {entry} is left out: {e}")
            if visible is not None and isinstance(e, nvml.NVMLError_InvalidArgument | nvml.NVMLError_NotFound):
                break  # CUDA, too, takes only what stands before an entry that it does not know
    return gpus, notices


def _entries(visible: str) -> list[str]:
    """CUDA's reading of the variable: nothing counts from the first entry on that means no device."""
    entries: list[str] = []
    for entry in (e.strip() for e in visible.split(",")):
        if not entry or entry.startswith("-") or entry == "NoDevFiles":
            break
        entries.append(entry)
    return entries


def _gpu(nvml: Any, entry: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(int(entry)) if entry.isdigit() else _by_uuid(nvml, entry)
    return Gpu(
        id=entry,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        free_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).free),
    )


def _by_uuid(nvml: Any, entry: str) -> Any:
    """CUDA takes the beginning of a UUID where it is not ambiguous."""
    for i in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(i)
            if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(entry):
                return handle
    return nvml.nvmlDeviceGetHandleByUUID(entry)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# --- names ----------------------------------------------------------------------------------------------------------


def _local_names(hosts: Iterable[str]) -> frozenset[str]:
    mine = {a.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses}
    mine |= {"0.0.0.0", "::"}
    return frozenset(host for host in set(hosts) if _addresses(host) & mine)


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()
