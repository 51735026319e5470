"""What UCX says of itself while a probe moves blocks: its version, and the ways that it really takes. Pure.

ucp_context.c:2753 UCX  INFO  Version 1.23.0 (loaded from ...)
UCX  | remote memory read by ucp_get*(multi) into host memory from host |
UCX  |  2998 | 0..inf | zero-copy   | cma/memory                        |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from trtdisagg.supervisor.doctor.finding import Finding

TALKATIVE = {"UCX_LOG_LEVEL": "info", "UCX_PROTO_INFO": "used"}
"""The environment in which it says so."""
_STAMP = r"^\[\d+\.\d+\] \[[^\]]*\] +"
"""Time, host and process, at the beginning of each of its lines."""
_LINE = re.compile(_STAMP)
_VERSION = re.compile(_STAMP + r"\S+ UCX +INFO +Version (\d+(?:\.\d+)*)")
_OPERATION = re.compile(_STAMP + r"\| (remote memory (?:read|write) by .*?) *\|$")
_WAY = re.compile(_STAMP + r"\| +\d+ \| [^|]+ \| [^|]+ \| ([^|]*?) *\|$")
_NAME = re.compile(r"([a-z_]+[a-z0-9_]*)/")


class Seen(msgspec.Struct, kw_only=True, frozen=True):
    version: tuple[int, ...] = ()
    """Empty: it did not say."""
    ways: dict[str, list[str]] = {}
    """By operation, as UCX names it: the transports and devices it took, `cma/memory`."""


def is_of_ucx(line: str) -> bool:
    """Whether UCX has written a line of what a process says."""
    return bool(_LINE.search(line))


def read(lines: str) -> Seen:
    """
    :param lines: what a process has said, where UCX was `TALKATIVE`.
    """
    version: tuple[int, ...] = ()
    ways: dict[str, list[str]] = {}
    operation = ""
    for line in lines.splitlines():
        if said := _VERSION.search(line):
            version = tuple(map(int, said[1].split(".")))
        elif operation_said := _OPERATION.search(line):
            operation = operation_said[1]
        elif (way := _WAY.search(line)) and operation and way[1] not in ways.setdefault(operation, []):
            ways[operation].append(way[1])
    return Seen(version=version, ways=ways)


def findings(seen: Seen, env: Mapping[str, str], *, on_gpu: bool) -> Iterator[Finding]:
    """
    :param env: what servers get.
    :param on_gpu: their KV is in device memory.
    """
    if not seen.version:
        return
    version = ".".join(map(str, seen.version))
    taken = list(dict.fromkeys(way for ways in seen.ways.values() for way in ways))
    found = f"{version}; blocks go by {', '.join(taken)}" if taken else version
    names = {name for way in taken for name in _NAME.findall(way)}
    if "tcp" in names:
        remedy = "Unset UCX_TLS and UCX_NET_DEVICES, and allow process_vm_readv (Docker: --cap-add=SYS_PTRACE)"
        yield Finding(topic="UCX", severity="warning", found=found, needs="TCP within one host", remedy=remedy)
    elif on_gpu and taken and "cuda_ipc" not in names:
        wanted = {name: value for name, value in for_nvlink(seen.version).items() if env.get(name) != value}
        words = " and ".join(f"{name}={value}" for name, value in wanted.items())
        remedy = (
            f"Set {words} in `env` of the sections" if words else "`nvidia-smi topo -m` shows what lies between them"
        )
        yield Finding(topic="UCX", severity="warning", found=found, needs="not by cuda_ipc (NVLink)", remedy=remedy)
    else:
        yield Finding(topic="UCX", found=found)


def for_nvlink(version: tuple[int, ...]) -> dict[str, str]:
    """What versions of UCX need to be told before they take NVLink between GPUs."""
    if version < (1, 18):
        return {"UCX_RNDV_FRAG_MEM_TYPE": "cuda", "UCX_MEMTYPE_CACHE": "n"}
    if version < (1, 19):
        return {"UCX_CUDA_COPY_ASYNC_MEM_TYPE": "cuda", "UCX_CUDA_COPY_DMABUF": "no", "UCX_MEMTYPE_CACHE": "n"}
    return {"UCX_MEMTYPE_CACHE": "n"}
