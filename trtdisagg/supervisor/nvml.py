"""What NVIDIA's driver says of the GPUs, asked of its management library (never of torch).

Knows which of them this process may use: `CUDA_VISIBLE_DEVICES` bounds what is there, as it would bound its children.
The library itself takes no notice of that variable and numbers by PCI address, so children get
CUDA_DEVICE_ORDER=PCI_BUS_ID with their pins. A GPU in MIG mode counts as its MIG devices, each as one GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

_WORD_BITS = 64


class Gpu(msgspec.Struct, kw_only=True, frozen=True):
    """A GPU, or a MIG device."""

    id: str
    """As it goes into CUDA_VISIBLE_DEVICES: an index in PCI order; a UUID where ours has UUIDs, or there is MIG."""
    uuid: str
    index: int
    """Of the GPU, in PCI order; of a MIG device, that of the GPU it is part of."""
    name: str
    total_bytes: int
    free_bytes: int
    cores: list[int] = []
    """CPU cores near it; empty: not known."""

    def is_called(self, word: str) -> bool:
        """Whether a word in a cluster file, or in CUDA_VISIBLE_DEVICES, means it: index, or beginning of the UUID."""
        return word == str(self.index) if word.isdigit() else self.uuid.startswith(word)


def find_gpus(env: Mapping[str, str]) -> tuple[list[Gpu], list[str]]:
    """The GPUs that children of this process may use, in order, and what to tell people of the others."""
    try:
        with session() as nvml:
            gpus, lost = ([], {}) if nvml is None else _everything(nvml)
    except _error() as e:
        return [], [f"The GPUs cannot be used: {e}"]
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus, [f"GPU {index} is left out: {why}" for index, why in lost.items()]
    kinds = {gpu.name for gpu in gpus}
    gpus, notices = _visible(visible, gpus, lost)
    has_indices = any(entry.isdigit() for entry in _entries(visible))
    if has_indices and len(kinds) > 1 and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notices.append(
            f"CUDA_VISIBLE_DEVICES={visible} counts GPUs in the order of their PCI addresses (CUDA_DEVICE_ORDER="
            "PCI_BUS_ID), as nvidia-smi does; the machine has several kinds, so name UUIDs if that is not meant"
        )
    return gpus, notices


@contextlib.contextmanager
def session() -> Iterator[Any]:
    """The library, ready for use; None where there is no such library or driver.

    :raises pynvml.NVMLError: the driver is there and does not work.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def handle_of(nvml: Any, gpu: str) -> Any:
    """
    :param gpu: as in `Gpu.id`.
    :raises pynvml.NVMLError: when it is not there, or lost.
    """
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)


def _error() -> type[Exception]:
    import pynvml

    error: type[Exception] = pynvml.NVMLError
    return error


# --- what is there --------------------------------------------------------------------------------------------------


def _everything(nvml: Any) -> tuple[list[Gpu], dict[int, str]]:
    """All GPUs of the machine, and by index why one cannot be used."""
    gpus: list[Gpu] = []
    lost: dict[int, str] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            cores = _near(nvml, handle)
            if not _is_divided(nvml, handle):
                gpus.append(_gpu(nvml, handle, index, cores))
            elif parts := list(_mig_devices(nvml, handle)):
                gpus += [_gpu(nvml, part, index, cores) for part in parts]
            else:
                lost[index] = "it is in MIG mode and has no MIG device; make some with nvidia-smi mig -cgi"
        except nvml.NVMLError as e:
            lost[index] = str(e)
    # Beside a GPU in MIG mode, what an index counts depends on the version of CUDA.
    has_mig = any(gpu.uuid.startswith("MIG-") for gpu in gpus)
    return [replace(gpu, id=gpu.uuid) for gpu in gpus] if has_mig else gpus, lost


def _gpu(nvml: Any, handle: Any, index: int, cores: list[int]) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        id=str(index),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        cores=cores,
    )


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _mig_devices(nvml: Any, handle: Any) -> Iterator[Any]:
    for i in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with contextlib.suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i)


def _near(nvml: Any, handle: Any) -> list[int]:
    """CPU cores near a GPU that this process may run on; none, when the driver does not say."""
    allowed = os.sched_getaffinity(0)
    num_words = -(-max(os.cpu_count() or 1, max(allowed) + 1) // _WORD_BITS)
    try:
        words = nvml.nvmlDeviceGetCpuAffinity(handle, num_words)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return []
    return [core for core in sorted(allowed) if words[core // _WORD_BITS] >> core % _WORD_BITS & 1]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# --- what of it is ours ---------------------------------------------------------------------------------------------


def _visible(visible: str, there: list[Gpu], lost: Mapping[int, str]) -> tuple[list[Gpu], list[str]]:
    """What CUDA_VISIBLE_DEVICES means. CUDA, too, takes only what stands before an entry that it does not know."""
    found: dict[str, Gpu] = {}
    notices = []
    for entry in _entries(visible):
        if entry.isdigit() and int(entry) in lost:
            notices.append(f"GPU {entry} is left out: {lost[int(entry)]}")
            continue
        meant = [gpu for gpu in there if gpu.is_called(entry)]
        if not meant or (len(meant) > 1 and not entry.isdigit()):
            why = "several are called so" if meant else "there is none"
            notices.append(f"GPU {entry} of CUDA_VISIBLE_DEVICES={visible} is left out, and all that follow: {why}")
            break
        for gpu in meant:
            found.setdefault(gpu.uuid, gpu if entry.isdigit() else replace(gpu, id=gpu.uuid))
    return list(found.values()), notices


def _entries(visible: str) -> Iterator[str]:
    """Nothing counts from the first entry on that means no device."""
    for entry in (e.strip() for e in visible.split(",")):
        if not entry or entry.startswith("-") or entry == "NoDevFiles":
            return
        yield entry
