"""What the driver's management library knows of GPUs beside what placing servers needs."""

from __future__ import annotations

import contextlib
import ctypes
import uuid
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import msgspec

from trtdisagg.supervisor.doctor.facts import GpuState, NoPeerAccess
from trtdisagg.supervisor.nvml import Gpu, handle_of, session

_CAN_READ = 0
"""NVML_P2P_CAPS_INDEX_READ, which is a tuple in pynvml, by a comma too many."""


class Driver(msgspec.Struct, kw_only=True, frozen=True):
    version: str | None = None
    gpus: list[GpuState] = []
    no_peer_access: list[NoPeerAccess] = []


def ask_driver(gpus: Sequence[Gpu], used: set[str]) -> Driver:
    """
    :param gpus: those that were found.
    :param used: ids of those that servers of one plan will be on.
    """
    if not gpus:
        return Driver()
    import pynvml

    with contextlib.suppress(pynvml.NVMLError), session() as nvml:
        if nvml is not None:
            return Driver(
                version=_version(nvml),
                gpus=list(_states(nvml, gpus)),
                no_peer_access=list(_no_peer_access(nvml, [gpu.id for gpu in gpus if gpu.id in used])),
            )
    return Driver()


def _version(nvml: Any) -> str | None:
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def _states(nvml: Any, gpus: Sequence[Gpu]) -> Iterator[GpuState]:
    for gpu in gpus:
        with contextlib.suppress(nvml.NVMLError):  # lost since it was found
            memory = nvml.nvmlDeviceGetMemoryInfo(handle_of(nvml, gpu.id))
            yield GpuState(
                id=gpu.id,
                name=gpu.name,
                free_bytes=int(memory.free),
                total_bytes=int(memory.total),
                domain=_domain(nvml, gpu.id),
            )


def _domain(nvml: Any, gpu: str) -> str | None:
    """An old driver knows no such thing, and on most machines there is none."""
    info = nvml.c_nvmlGpuFabricInfoV_t()
    info.version = nvml.nvmlGpuFabricInfo_v2
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlDeviceGetGpuFabricInfoV(handle_of(nvml, gpu), ctypes.byref(info))
        if info.state == nvml.NVML_GPU_FABRIC_STATE_COMPLETED and any(info.clusterUuid):
            return str(uuid.UUID(bytes=bytes(info.clusterUuid)))
    return None


def _no_peer_access(nvml: Any, gpus: Sequence[str]) -> Iterator[NoPeerAccess]:
    reasons = {
        nvml.NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED: "not with this chipset",
        nvml.NVML_P2P_STATUS_GPU_NOT_SUPPORTED: "not with these GPUs",
        nvml.NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED: "not across these bridges",
        nvml.NVML_P2P_STATUS_DISABLED_BY_REGKEY: "turned off in the driver",
    }
    for one, other in combinations(gpus, 2):
        with contextlib.suppress(nvml.NVMLError):  # an old driver, or MIG devices, of which it does not say
            pair = handle_of(nvml, one), handle_of(nvml, other)
            status = nvml.nvmlDeviceGetP2PStatus(*pair, _CAN_READ)
            if status != nvml.NVML_P2P_STATUS_OK:
                yield NoPeerAccess(one=one, other=other, why=reasons.get(status, f"status {status}"))
