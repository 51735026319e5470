"""What a driver tells of GPUs beside what placing needs, with a driver that is made up."""

from __future__ import annotations

import pytest
from helpers.nvml import TOTAL_MIB, FakeNvml, fabric, gpu, mig

from trtdisagg.supervisor.doctor.facts import NoPeerAccess
from trtdisagg.supervisor.doctor.gpu_facts import Driver, ask_driver
from trtdisagg.supervisor.nvml import find_gpus


def ask(used: set[str]) -> Driver:
    return ask_driver(find_gpus({})[0], used)


def test_memory_and_driver(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0), gpu(1, used_mib=1000))
    driver = ask({"0", "1"})
    assert driver.version == "570.86.15"
    assert [(g.id, g.free_bytes >> 20, g.total_bytes >> 20) for g in driver.gpus] == [
        ("0", TOTAL_MIB, TOTAL_MIB),
        ("1", TOTAL_MIB - 1000, TOTAL_MIB),
    ]
    assert driver.no_peer_access == []


@pytest.mark.parametrize(
    ("used", "pairs"), [({"0", "1", "2"}, [("0", "2"), ("1", "2")]), ({"0", "1"}, []), ({"1", "2"}, [("1", "2")])]
)
def test_pairs_that_the_plan_uses(fake_nvml: FakeNvml, used: set[str], pairs: list[tuple[str, str]]) -> None:
    fake_nvml.describe(gpu(0), gpu(1), gpu(2, name="Other"))
    expected = [NoPeerAccess(one=one, other=other, why="not with these GPUs") for one, other in pairs]
    assert ask(used).no_peer_access == expected


def test_a_gpu_that_is_lost_meanwhile(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0), gpu(1))
    found = find_gpus({})[0]
    fake_nvml.describe(gpu(0), gpu(1, state="lost"))
    driver = ask_driver(found, {"0", "1"})
    assert ([g.id for g in driver.gpus], driver.no_peer_access) == (["0"], [])


def test_parts_of_a_gpu(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, state="divided"), mig(1), mig(2))
    driver = ask({g.id for g in find_gpus({})[0]})
    assert len(driver.gpus) == 2
    assert driver.no_peer_access == []


def test_nvlink_domains(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0), fabric(171), gpu(1))
    assert [g.domain for g in ask({"0", "1"}).gpus] == ["abababab-abab-abab-abab-abababababab", None]


def test_no_driver(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0))
    found = find_gpus({})[0]
    fake_nvml.description.unlink()
    assert ask_driver(found, {"0"}) == Driver()
    assert ask_driver([], set()) == Driver()
