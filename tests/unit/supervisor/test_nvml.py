"""Discovery with a management library that is made up: all there, one lost, divided ones, no driver, no library."""

from __future__ import annotations

import os
from typing import Any

import pynvml
import pytest
from helpers.nvml import TOTAL_MIB, FakeNvml, gpu, mig, uuid

from trtdisagg.supervisor.nvml import find_gpus

MIB = 1024**2


def visible(value: str | None, **env: str) -> dict[str, str]:
    return env if value is None else {"CUDA_VISIBLE_DEVICES": value, **env}


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("GPU-b", [uuid(1)]),
        (f"{uuid(1)},2", [uuid(1), "2"]),
        ("1,GPU-b,1", ["1"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["0"]),
        ("NoDevFiles", []),
        ("1,7,2", ["1"]),
        ("1,GPU-x,2", ["1"]),
        ("1,GPU-,2", ["1"]),
    ],
)
def test_inherited_visible_devices_bound_what_is_there(fake_nvml: FakeNvml, value: str | None, ids: list[str]) -> None:
    fake_nvml.describe(gpu(0), gpu(1), gpu(2))
    gpus, notices = find_gpus(visible(value))
    assert [found.id for found in gpus] == ids
    assert bool(notices) == (value in ("1,7,2", "1,GPU-x,2", "1,GPU-,2"))


def test_what_is_known_of_a_gpu(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0), gpu(1, used_mib=100, name="H200", cores=0xFF))
    found = find_gpus({})[0][1]
    assert (found.id, found.index, found.uuid, found.name) == ("1", 1, uuid(1), "H200")
    assert (found.total_bytes, found.free_bytes) == (TOTAL_MIB * MIB, (TOTAL_MIB - 100) * MIB)
    assert found.cores == sorted(os.sched_getaffinity(0) & set(range(8)))


def test_a_driver_that_does_not_tell_which_cores_are_near(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, cores=0))
    assert find_gpus({})[0][0].cores == []


@pytest.mark.parametrize("value", [None, "0,1,2"])
def test_a_lost_gpu_is_left_out_and_said(fake_nvml: FakeNvml, value: str | None) -> None:
    fake_nvml.describe(gpu(0), gpu(1, state="lost"), gpu(2))
    gpus, notices = find_gpus(visible(value))
    assert [found.id for found in gpus] == ["0", "2"]
    assert notices == ["GPU 1 is left out: GPU is lost"]


# --- MIG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (None, ["MIG-00000001-part", "MIG-00000002-part", uuid(1)]),
        ("0", ["MIG-00000001-part", "MIG-00000002-part"]),
        ("MIG-00000002", ["MIG-00000002-part"]),
        ("1,MIG-00000001-part", [uuid(1), "MIG-00000001-part"]),
        ("MIG-0", []),
    ],
)
def test_a_divided_gpu_counts_as_its_parts(fake_nvml: FakeNvml, value: str | None, ids: list[str]) -> None:
    fake_nvml.describe(gpu(0, state="divided", cores=1), mig(1, used_mib=10), mig(2), gpu(1))
    gpus, _ = find_gpus(visible(value))
    assert [found.id for found in gpus] == ids


def test_what_is_known_of_a_part(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, state="divided", cores=1), mig(1, used_mib=10))
    (part,), _ = find_gpus({})
    assert (part.index, part.name, part.free_bytes) == (0, "Card-MIG", (TOTAL_MIB // 4 - 10) * MIB)
    assert part.cores == sorted(os.sched_getaffinity(0) & {0})


def test_a_divided_gpu_without_parts_is_left_out_and_said(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, state="divided"), gpu(1))
    gpus, notices = find_gpus({})
    assert [found.id for found in gpus] == ["1"]
    assert "GPU 0 is left out: it is in MIG mode and has no MIG device" in notices[0]


# --- the order of indices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "is_said"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, True),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, False),
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, False),
        ({}, False),
    ],
)
def test_indices_that_may_mean_something_else_to_cuda(fake_nvml: FakeNvml, env: dict[str, str], is_said: bool) -> None:
    fake_nvml.describe(gpu(0, name="small"), gpu(1, name="large"))
    assert any("order of their PCI addresses" in notice for notice in find_gpus(env)[1]) == is_said


# --- no GPUs --------------------------------------------------------------------------------------------------------


def test_no_driver_is_no_news(fake_nvml: FakeNvml) -> None:
    assert not fake_nvml.description.exists()
    assert find_gpus({}) == ([], [])


def test_but_for_gpus_that_were_given(fake_nvml: FakeNvml) -> None:
    """As Slurm does it; a container may be without the driver."""
    said = "GPU 0 of CUDA_VISIBLE_DEVICES=0,1 is left out, and all that follow: there is none"
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}) == ([], [said])


def test_no_library_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", _raising(pynvml.NVMLError_LibraryNotFound()))
    assert find_gpus({}) == ([], [])


def test_a_broken_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", _raising(pynvml.NVMLError_Unknown()))
    gpus, (notice,) = find_gpus({})
    assert gpus == []
    assert "cannot be used" in notice


def _raising(error: Exception) -> Any:
    def fail() -> None:
        raise error

    return fail
