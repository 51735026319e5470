"""The bound on connections follows from what the process may open."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from trtdisagg.proxy.http.descriptors import affordable


@pytest.mark.parametrize(
    ("wanted", "num_descriptors", "possible"),
    [
        (16_384, 1_048_576, 16_384),
        (16_384, 20_000, 9_936),
        (16_384, 1_024, 448),
        (100, 1_024, 100),
        (100, 64, 1),
        (5, resource.RLIM_INFINITY, 5),
    ],
)
def test_connections_are_those_that_there_are_descriptors_for(wanted: int, num_descriptors: int, possible: int) -> None:
    assert affordable(wanted, num_descriptors) == possible


def test_a_process_takes_all_it_may_have_and_says_what_is_missing() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 400))\n"
        "from trtdisagg.proxy.http.descriptors import allow_connections\n"
        "print(allow_connections(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["136", "400"]
    assert "may open 400 files, and would need 2128" in done.stderr
