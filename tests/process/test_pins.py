"""Which GPUs and cores servers get, on a machine with GPUs that are made up: the real program, fake engines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.cluster import REPOSITORY, Cluster, running
from helpers.nvml import FakeNvml, gpu, mig, uuid

FAKE_ENGINE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """For programs that this test starts."""
    fake = FakeNvml(nvml_library, tmp_path)
    for name, value in fake.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def text(num_context: int, num_generation: int, more: str = "") -> str:
    return (
        f"model: fake-model\nport: 0\ncommand: {FAKE_ENGINE}\n{more}\n"
        f"context_servers: {{num_instances: {num_context}}}\ngeneration_servers: {{num_instances: {num_generation}}}\n"
    )


def pins(cluster: Cluster) -> dict[str, list[str]]:
    """The GPUs of each server's plan."""
    done = cluster.run("check", str(cluster.file), "--json")
    assert done.returncode == 0, done.stderr
    return {server["name"]: server["gpus"] for server in json.loads(done.stdout)["servers"]}


def environ(server: dict[str, Any]) -> dict[str, str]:
    """As the process itself has it."""
    return psutil.Process(server["pid"]).environ()


# --- a cluster that runs --------------------------------------------------------------------------------------------


def test_each_server_sees_its_own_gpu(nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.describe(*(gpu(i, state="lost" if i == 1 else "ok") for i in range(5)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{uuid(4)},1,2,0")
    with running(tmp_path, text(1, 2)) as cluster:
        status = cluster.status()
        servers = [server for server in status["servers"] if server["name"] != "proxy"]
        seen = {server["name"]: environ(server)["CUDA_VISIBLE_DEVICES"] for server in servers}
        assert seen == {"context-0": uuid(4), "generation-0": "2", "generation-1": "0"}
        assert {environ(server)["CUDA_DEVICE_ORDER"] for server in servers} == {"PCI_BUS_ID"}
        assert {server["name"]: ",".join(server["gpus"]) for server in servers} == seen
        assert "GPU 1 is left out: GPU is lost" in cluster.run("check", "cluster.yaml").stderr


def test_on_a_machine_with_gpus_a_server_on_the_cpu_sees_none(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.describe(gpu(0))
    with running(tmp_path, text(0, 1, "gpus: []")) as cluster:
        assert environ(cluster.server("generation-0"))["CUDA_VISIBLE_DEVICES"] == ""


# --- plans ----------------------------------------------------------------------------------------------------------


def test_too_few_gpus_is_an_error_before_anything_starts(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.describe(gpu(0), gpu(1))
    cluster = Cluster(tmp_path, text(1, 2))
    for command in ("check", "up"):
        done = cluster.run(command, str(cluster.file))
        assert done.returncode == 1
        assert "generation-1 wants a GPU of its own, and none is left: there are 0 (Card), 1 (Card);" in done.stderr
        assert "context-0 has 0, generation-0 has 1" in done.stderr
    assert cluster.left_over() == []


def test_servers_whose_sections_name_a_gpu_share_it_and_it_is_said(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.describe(gpu(0), gpu(1))
    cluster = Cluster(tmp_path, text(1, 1, "gpus: [1]"))
    assert pins(cluster) == {"context-0": ["1"], "generation-0": ["1"]}
    assert "context-0, generation-0 share GPU 1: they slow" in cluster.run("check", str(cluster.file)).stderr


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, ["0", "1"]),
        ("2,1", ["2", "1"]),
        (f"{uuid(2)},GPU-a", [uuid(2), uuid(0)]),
    ],
)
def test_an_inherited_variable_bounds_what_is_there(
    nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: list[str]
) -> None:
    nvml.describe(gpu(0), gpu(1), gpu(2))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert pins(Cluster(tmp_path, text(1, 1))) == {"context-0": gpus[:1], "generation-0": gpus[1:]}


def test_a_file_may_name_what_the_variable_allows_and_nothing_else(
    nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.describe(gpu(0), gpu(1), gpu(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{uuid(2)},{uuid(1)}")
    assert pins(Cluster(tmp_path, text(1, 1, "gpus: [1, GPU-c]"))) == {
        "context-0": [uuid(1)],
        "generation-0": [uuid(2)],
    }
    refused = Cluster(tmp_path, text(1, 1, "gpus: [0]")).run("check", "cluster.yaml")
    assert refused.returncode == 2
    assert f"there is no GPU 0 here; there are {uuid(2)} (Card), {uuid(1)} (Card)" in refused.stderr


def test_parts_of_a_divided_gpu(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.describe(gpu(0, state="divided"), mig(1), mig(2))
    expected = {"context-0": ["MIG-00000001-part"], "generation-0": ["MIG-00000002-part"]}
    assert pins(Cluster(tmp_path, text(1, 1))) == expected


def test_servers_are_bound_to_the_cores_near_their_gpu(nvml: FakeNvml, tmp_path: Path) -> None:
    here = sorted(os.sched_getaffinity(0))
    if len(here) < 2:
        pytest.skip("one core is near to everything")
    nvml.describe(gpu(0, cores=1 << here[-1]), gpu(1, cores=1 << here[0]))
    done = Cluster(tmp_path, text(1, 1)).run("check", "cluster.yaml", "--json")
    cores = {server["name"]: server["spec"]["cores"] for server in json.loads(done.stdout)["servers"]}
    assert cores == {"context-0": [here[-1]], "generation-0": [here[0]]}
