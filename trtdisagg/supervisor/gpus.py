"""Waits until the memory that a server had on its GPUs is free again, before the server is started anew.

The driver gives the memory of a dead process back a while after the process is gone, and not at all while something
that it left behind holds on to it. Starting over before that is the usual reason for an out-of-memory at a restart.

A GPU is at its base line when no more of it is used than before the first server of ours was started there. Where
several servers share a GPU, the others go on using it: then as much must be free as the server was planned to take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import psutil

from trtdisagg.config.sizes import GIB
from trtdisagg.supervisor.nvml import handle_of, session

DEADLINE_S = 20.0
_POLL_S = 0.2
_ANSWER_S = 5.0
_SLACK_BYTES = 256 * 1024**2
"""What the driver itself may keep after a GPU was used for the first time."""


class Usage(msgspec.Struct, kw_only=True, frozen=True):
    """The memory of one GPU at one moment."""

    used_bytes: int = 0
    free_bytes: int = 0
    holders: dict[int, int] = {}
    """Bytes by process; empty where the driver does not tell, as in containers."""


class BaseLines:
    """The memory in use on the GPUs of one agent before it started anything there.

    :param read: asks for the usage of GPUs; it may block, so it is called in a thread.
    """

    def __init__(self, read: Callable[[Sequence[str]], dict[str, Usage]] | None = None) -> None:
        self._read = read or read_usage
        self._used_bytes: dict[str, int] = {}
        self._servers: dict[str, set[str]] = {}

    async def record(self, server: str, gpus: Sequence[str]) -> None:
        """To be called before each start of a server; the base line is that of the first start of any on that GPU.

        A GPU that does not answer in time has no base line, and nobody will wait for one.
        """
        self.forget(server)
        for gpu in gpus:
            self._servers.setdefault(gpu, set()).add(server)
        if new := [gpu for gpu in gpus if gpu not in self._used_bytes]:
            with anyio.move_on_after(_ANSWER_S):
                for gpu, usage in (await self._look(new)).items():
                    self._used_bytes.setdefault(gpu, usage.used_bytes)

    def forget(self, server: str) -> None:
        """The server is gone and does not come back, or has other GPUs now."""
        for servers in self._servers.values():
            servers.discard(server)

    async def back_to_base_line(
        self, server: str, gpus: Sequence[str], needed_bytes: int, *, timeout_s: float = DEADLINE_S
    ) -> str | None:
        """Wait until a server that has ended can be started again on its GPUs.

        :param needed_bytes: what it takes on each, for GPUs that others use, too.
        :returns: None when all is well; after `timeout_s` or without an answer of the driver, what is wrong, in words.
        """
        recorded = [gpu for gpu in gpus if gpu in self._used_bytes]
        if not recorded:
            return None
        late: list[str] = []
        with anyio.move_on_after(timeout_s):
            while True:
                usages = await self._look(recorded)
                late = [gpu for gpu in recorded if not self._is_back(server, gpu, usages.get(gpu), needed_bytes)]
                if not late:
                    return None
                await anyio.sleep(_POLL_S)
        if not late:
            return f"{server}: the driver has not answered for {timeout_s:g} s about GPU {', '.join(recorded)}"
        return f"{server}: after {timeout_s:g} s " + "; ".join(self._words(gpu, usages.get(gpu)) for gpu in late)

    async def _look(self, gpus: Sequence[str]) -> dict[str, Usage]:
        return await anyio.to_thread.run_sync(self._read, gpus, abandon_on_cancel=True)

    def _is_back(self, server: str, gpu: str, usage: Usage | None, needed_bytes: int) -> bool:
        if usage is None:
            return False
        if self._servers.get(gpu, set()) - {server}:
            return usage.free_bytes >= needed_bytes
        return usage.used_bytes <= self._used_bytes[gpu] + _SLACK_BYTES

    def _words(self, gpu: str, usage: Usage | None) -> str:
        if usage is None:
            return f"GPU {gpu} does not answer"
        return (
            f"GPU {gpu} has {usage.used_bytes / GIB:.2f} GiB in use still, of which "
            f"{self._used_bytes[gpu] / GIB:.2f} GiB were there before the first start; {_holders(usage.holders)}"
        )


def _holders(holders: dict[int, int]) -> str:
    if not holders:
        return "the driver does not say whose it is"
    return "held by " + ", ".join(f"pid {pid} ({_name(pid)}) {held / GIB:.2f} GiB" for pid, held in holders.items())


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "gone"


def read_usage(gpus: Iterable[str]) -> dict[str, Usage]:
    """Ask the driver; a GPU that does not answer is not in the result. May block.

    :param gpus: as in `Gpu.id`.
    """
    import pynvml

    usages = {}
    with contextlib.suppress(pynvml.NVMLError), session() as nvml:
        for gpu in gpus if nvml else ():
            with contextlib.suppress(pynvml.NVMLError):
                usages[gpu] = _usage(nvml, gpu)
    return usages


def _usage(nvml: Any, gpu: str) -> Usage:
    handle = handle_of(nvml, gpu)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        processes = []
    return Usage(
        used_bytes=int(memory.used),
        free_bytes=int(memory.free),
        holders={int(process.pid): int(process.usedGpuMemory or 0) for process in processes},
    )
