"""Memory that is given back late, or not, on GPUs that are made up."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import anyio
import pytest
from helpers.nvml import FakeNvml, gpu, mig

from trtdisagg.supervisor.gpus import BaseLines, Usage, read_usage

MIB = 1024**2
pytestmark = pytest.mark.anyio


class Readings:
    """Usages in turn, the last for ever."""

    def __init__(self, *used_mib: int) -> None:
        self.used_mib = list(used_mib)
        self.num_read = 0

    def __call__(self, gpus: Sequence[str]) -> dict[str, Usage]:
        assert threading.current_thread() is not threading.main_thread(), "it may block"
        used = self.used_mib[min(self.num_read, len(self.used_mib) - 1)]
        self.num_read += 1
        return {gpu: Usage(used_bytes=used * MIB, free_bytes=(80_000 - used) * MIB) for gpu in gpus}


async def test_it_waits_until_the_memory_is_back() -> None:
    readings = Readings(500, 70_000, 40_000, 600)
    lines = BaseLines(readings)
    await lines.record("context-0", ["0"])
    assert await lines.back_to_base_line("context-0", ["0"], 1) is None
    assert readings.num_read == 4


async def test_what_the_driver_keeps_does_not_count() -> None:
    lines = BaseLines(Readings(500, 700))
    await lines.record("context-0", ["0"])
    assert await lines.back_to_base_line("context-0", ["0"], 1) is None


async def test_the_base_line_is_that_of_the_first_start() -> None:
    lines = BaseLines(Readings(500, 70_000, 70_000))
    await lines.record("context-0", ["0"])
    await lines.record("context-0", ["0"])
    assert await lines.back_to_base_line("context-0", ["0"], 1, timeout_s=0.3) is not None


async def test_what_others_of_ours_hold_does_not_count() -> None:
    lines = BaseLines(Readings(500, 70_000, 70_000, 30_000))
    await lines.record("context-0", ["0"])
    await lines.record("generation-0", ["0"])
    assert await lines.back_to_base_line("context-0", ["0"], 40_000 * MIB) is None
    lines.forget("generation-0")
    assert await lines.back_to_base_line("context-0", ["0"], 40_000 * MIB, timeout_s=0.3) is not None


async def test_a_server_that_has_another_gpu_now_is_no_other_on_its_old_one() -> None:
    lines = BaseLines(Readings(0, 0, 70_000))
    await lines.record("context-0", ["0"])
    await lines.record("generation-0", ["0"])
    await lines.record("generation-0", ["1"])
    assert await lines.back_to_base_line("context-0", ["0"], 1, timeout_s=0.3) is not None


async def test_on_the_cpu_nobody_is_asked() -> None:
    readings = Readings(0)
    lines = BaseLines(readings)
    await lines.record("context-0", [])
    assert await lines.back_to_base_line("context-0", [], 1) is None
    assert readings.num_read == 0


async def test_a_driver_that_hangs_does_not_hold_us_up() -> None:
    go = threading.Event()

    def read(gpus: Sequence[str]) -> dict[str, Usage]:
        if recorded:
            go.wait()
        return dict.fromkeys(gpus, Usage())

    recorded = False
    lines = BaseLines(read)
    await lines.record("context-0", ["0"])
    recorded = True
    with anyio.fail_after(60):
        words = await lines.back_to_base_line("context-0", ["0"], 1, timeout_s=0.1)
    go.set()
    assert words == "context-0: the driver has not answered for 0.1 s about GPU 0"


# --- with the stand-in ----------------------------------------------------------------------------------------------


async def test_memory_that_is_held_is_said_with_the_pids(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, used_mib=512), gpu(1))
    lines = BaseLines()
    await lines.record("context-0", ["0"])
    fake_nvml.describe(gpu(0, used_mib=9 * 1024), f"process {os.getpid()} 8192", "process 4194304 512", gpu(1))
    words = await lines.back_to_base_line("context-0", ["0"], 1, timeout_s=0.3)
    assert words is not None
    assert words.startswith("context-0: after 0.3 s GPU 0 has 9.00 GiB in use still, of which 0.50 GiB were there")
    assert f"held by pid {os.getpid()} (" in words
    assert words.endswith("8.00 GiB, pid 4194304 (gone) 0.50 GiB")


async def test_it_goes_on_as_soon_as_the_memory_is_back(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0, state="divided"), mig(1), gpu(1))
    lines = BaseLines()
    await lines.record("context-0", ["MIG-00000001-part"])
    fake_nvml.describe(gpu(0, state="divided"), mig(1, used_mib=9000), gpu(1))
    async with anyio.create_task_group() as tasks:

        @tasks.start_soon
        async def _() -> None:
            assert await lines.back_to_base_line("context-0", ["MIG-00000001-part"], 1, timeout_s=60) is None

        await anyio.wait_all_tasks_blocked()
        fake_nvml.describe(gpu(0, state="divided"), mig(1), gpu(1))


async def test_a_gpu_that_is_lost_meanwhile(fake_nvml: FakeNvml) -> None:
    fake_nvml.describe(gpu(0), gpu(1))
    lines = BaseLines()
    await lines.record("context-0", ["0"])
    fake_nvml.describe(gpu(0, state="lost"), gpu(1))
    words = await lines.back_to_base_line("context-0", ["0"], 1, timeout_s=0.1)
    assert words == "context-0: after 0.1 s GPU 0 does not answer"


def test_usage_of_what_is_there(fake_nvml: FakeNvml) -> None:
    assert read_usage(["0"]) == {}
    fake_nvml.describe(gpu(0, used_mib=1), "process 7 1", gpu(1, state="lost"))
    assert read_usage(["0", "1", "5"]) == {
        "0": Usage(used_bytes=MIB, free_bytes=81919 * MIB, holders={7: MIB}),
    }
