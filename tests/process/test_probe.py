"""The probe as the program it is: two processes with real pools and real transports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.agents import TEST_MARK, left_over
from helpers.waiting import until

from trtdisagg.protocol.probe import Library, LinkRate, MemoryRate
from trtdisagg.supervisor.doctor import examine_probe, probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("UCX_TLS", raising=False)


def test_what_loads_and_how_fast_kv_moves() -> None:
    (probed,) = probe(None, timeout_s=200)
    assert probed.error is None
    libraries = {line.name: line for line in probed.lines if isinstance(line, Library)}
    assert {"torch", "kernels", "nixl"} <= libraries.keys() <= {"torch", "kernels", "nixl", "NCCL"}
    assert libraries["torch"].version
    assert libraries["torch"].error is None
    (memory,) = (line for line in probed.lines if isinstance(line, MemoryRate))
    links = {line.transport: line for line in probed.lines if isinstance(line, LinkRate)}
    assert {name: link.error for name, link in links.items()} == {"local": None, "nixl": None}
    for rates in (memory.rates, links["local"].rates, links["nixl"].rates):
        assert [rate.num_bytes for rate in rates] == [1 << 20, 64 << 20]
        assert all(rate.seconds > 0 for rate in rates)
    assert "error" not in {finding.severity for finding in examine_probe(None, [probed])}
    assert len(probed.by_ucx.version) == 3
    ways = [way for ways in probed.by_ucx.ways.values() for way in ways]
    assert ways, "UCX says otherwise now which way it takes"
    assert not any("tcp" in way for way in ways)


def test_a_setting_that_leaves_ucx_nothing_is_said_by_that_link_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """UCX also says so on stdout, which must not be taken for lines of ours."""
    monkeypatch.setenv("UCX_TLS", "nonsense")
    (probed,) = probe(None, timeout_s=200)
    links = {line.transport: line for line in probed.lines if isinstance(line, LinkRate)}
    assert links["local"].error is None
    assert "UCX_* variables" in (links["nixl"].error or "")


def test_it_ends_at_its_deadline_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_MARK, str(tmp_path))
    (probed,) = probe(None, timeout_s=1)
    assert probed.error == "it did not end within 1 s"
    until(lambda: not left_over(str(tmp_path)), "no process is left", instead=lambda: left_over(str(tmp_path)))


def test_an_unknown_transport_is_refused() -> None:
    command = [sys.executable, "-m", "trtdisagg.cache.probe", "--transports", "local,rdma"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)
    assert done.returncode == 2
    assert "there is no transport rdma" in done.stderr
