"""What a sweep leaves beside its reports: on what each variant ran, and why something has no report."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import msgspec
import psutil

from trtdisagg import __version__
from trtdisagg.protocol.control import ClusterStatus

_SMI_TIMEOUT_S = 20.0


class Machine(msgspec.Struct, kw_only=True, frozen=True):
    """Where the sweep ran; of several nodes, the first."""

    host: str
    cpu: str
    num_cores: int
    memory_gib: float
    gpus: list[str] = []
    """Names, as NVIDIA's tool tells them."""
    kernel: str
    python: str


class Ran(msgspec.Struct, kw_only=True, frozen=True):
    """One run of a variant's cluster: the last one, if it was resumed."""

    version: str
    machine: Machine
    started_at: str
    """ISO 8601, with the offset from UTC."""
    ready_s: float | None = None
    """From the start until it could serve; None: it ran already."""
    ended_at: str | None = None
    url: str
    servers: list[str] = []
    """`generation-0: both, GPU 0`"""
    num_gpus: int = 0
    num_cores: int = 0


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """Of a variant or a cell."""

    at: str
    reason: str


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def this_machine() -> Machine:
    return Machine(
        host=platform.node(),
        cpu=_cpu(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=_gpus(),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def ran(status: ClusterStatus, started_at: str) -> Ran:
    """Of a cluster that is ready."""
    servers = [server for server in status.servers if server.role != "proxy"]
    return Ran(
        version=__version__,
        machine=this_machine(),
        started_at=started_at,
        url=status.url,
        servers=[_words(s.name, s.role, s.gpus, s.cores, s.nodes) for s in servers],
        num_gpus=len({(node, gpu) for s in servers for node, gpu in _on_nodes(s.nodes, s.gpus)}),
        num_cores=_num_cores([s.cores for s in servers], are_shared=not any(s.nodes for s in servers)),
    )


def _on_nodes(nodes: list[str], gpus: list[str]) -> list[tuple[str, str]]:
    """Each GPU with its node: a rank has one of each, except where ranks share."""
    if len(nodes) == len(gpus):
        return list(zip(nodes, gpus, strict=True))
    return [(nodes[0] if nodes else "", gpu) for gpu in gpus]


def _num_cores(cores: list[list[int]], *, are_shared: bool) -> int:
    """:param are_shared: the same number means the same core, as it does on one node."""
    return len(set().union(*cores)) if are_shared else sum(map(len, cores))


def _words(name: str, role: str, gpus: list[str], cores: list[int], nodes: list[str]) -> str:
    place = f"GPU {', '.join(gpus)}" if gpus else f"{len(cores)} cores" if cores else "cores of others"
    where = f" of {', '.join(dict.fromkeys(nodes))}" if nodes else ""
    return f"{name}: {role}, {place}{where}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gpus() -> list[str]:
    if not (program := shutil.which("nvidia-smi")):
        return []
    try:
        done = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
