"""What the machine has, with a management library that is made up: all there, one lost, no driver, no library."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from trtdisagg.supervisor.host import discover


class FakeNvml:
    """Stands in for pynvml: `count` GPUs of which some are lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, lost: set[int] | None = None) -> None:
        self.count, self.lost = count, lost or set()
        for name in ("Init", "Shutdown", "DeviceGetCount", "DeviceGetHandleByIndex", "DeviceGetHandleByUUID"):
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name.lower()))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{'abcdefgh'[handle]}-uuid")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: b"A card")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(free=1000 + handle))

    def init(self) -> None: ...

    def shutdown(self) -> None: ...

    def devicegetcount(self) -> int:
        return self.count

    def devicegethandlebyindex(self, index: int) -> int:
        if index in self.lost:
            raise pynvml.NVMLError_GpuIsLost()
        if index >= self.count:
            raise pynvml.NVMLError_InvalidArgument()
        return index

    def devicegethandlebyuuid(self, uuid: str) -> int:
        raise pynvml.NVMLError_NotFound()


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-b", ["GPU-b"]),
        ("GPU-b-uuid,2", ["GPU-b-uuid", "2"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["0"]),
        ("NoDevFiles", []),
        ("1,7,2", ["1"]),
    ],
)
def test_inherited_visible_devices_bound_what_is_there(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, ids: list[str]
) -> None:
    FakeNvml(monkeypatch, 3)
    found = discover(env={} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.id for gpu in found.gpus] == ids


def test_what_is_known_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch, 2)
    gpu = discover(env={}).gpus[1]
    assert (gpu.uuid, gpu.name, gpu.free_bytes) == ("GPU-b-uuid", "A card", 1001)


def test_a_lost_gpu_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch, 3, lost={1})
    found = discover(env={})
    assert [gpu.id for gpu in found.gpus] == ["0", "2"]
    assert any("GPU 1 is left out" in notice for notice in found.notices)


@pytest.mark.parametrize("error", [pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded])
def test_no_gpus_is_no_news(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def init() -> None:
        raise error()

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    found = discover(env={})
    assert (found.gpus, found.notices) == ([], [])


def test_a_broken_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise pynvml.NVMLError_Unknown()

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    assert "cannot be used" in discover(env={}).notices[0]


def test_names_of_this_machine() -> None:
    names = ["localhost", "127.0.0.1", "::1", "0.0.0.0", "192.0.2.7", "no.such.host.invalid"]
    assert discover(names, env={}).local_names >= {"localhost", "127.0.0.1", "0.0.0.0"}
    assert not discover(names, env={}).local_names & {"192.0.2.7", "no.such.host.invalid"}


def test_cores_are_those_we_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert discover(env={}).cores == [min(allowed)]
    finally:
        os.sched_setaffinity(0, allowed)


def test_there_is_some_memory() -> None:
    assert discover(env={}).memory_bytes > 2**20
