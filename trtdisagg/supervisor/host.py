"""What this machine has: CPU cores, free memory, GPUs, and which names in `urls` mean it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import psutil

from trtdisagg.supervisor.nvml import Gpu, find_gpus
from trtdisagg.supervisor.topology import numa_nodes

_CGROUP = Path("/sys/fs/cgroup")


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
    gpus, notices = find_gpus(env)
    cores = sorted(os.sched_getaffinity(0))
    return Host(
        cores=cores,
        nodes=numa_nodes(cores),
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
