"""What this machine has."""

from __future__ import annotations

import os

from trtdisagg.supervisor.host import discover


def test_names_of_this_machine() -> None:
    names = ["localhost", "127.0.0.1", "::1", "0.0.0.0", "192.0.2.7", "no.such.host.invalid"]
    assert discover(names, env={}).local_names >= {"localhost", "127.0.0.1", "0.0.0.0"}
    assert not discover(names, env={}).local_names & {"192.0.2.7", "no.such.host.invalid"}


def test_cores_are_those_we_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        found = discover(env={})
        assert found.cores == [min(allowed)]
        assert found.nodes in ([], [[min(allowed)]])
    finally:
        os.sched_setaffinity(0, allowed)


def test_there_is_some_memory() -> None:
    assert discover(env={}).memory_bytes > 2**20
