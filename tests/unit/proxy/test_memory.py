"""Memory that is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

NUM_ROUNDS = 200
FAULTS = f"""
import resource, sys
from trtdisagg.proxy.memory import keep_memory

def take_and_free():
    return len([bytes(64 * 1024) for _ in range(20)])

if sys.argv[1] == "keep":
    keep_memory()
take_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({NUM_ROUNDS}):
    take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_was_freed_is_had_again_without_the_kernel() -> None:
    assert num_faults("keep") < NUM_ROUNDS < num_faults("leave")
