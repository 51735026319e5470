"""The facts as they are gathered: control groups that are made up, this machine as it is."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plans import FAKE_ENGINE, cluster_file, plan_of

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import StartupError
from trtdisagg.supervisor.doctor import before_start, cgroups, look
from trtdisagg.supervisor.doctor.look import has_capability
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import hold


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "run" / "c", tmp_path / "state" / "c" / "logs")


@pytest.fixture
def limits() -> Iterator[None]:
    """Puts the limit of open files back, which `before_start` raises."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fake_plan(port: int) -> Plan:
    section = ServerSection(command=FAKE_ENGINE)
    return plan_of(cluster_file(port=port, context_servers=section, generation_servers=section))


def test_this_machine(place: Place, tmp_path: Path) -> None:
    env = {"UCX_TLS": "sm", "HOME": "/", "HF_HOME": str(tmp_path / "hf"), "NCCL_DEBUG": "INFO"}
    facts = look(None, place, env)
    assert facts.cores == sorted(os.sched_getaffinity(0))
    assert facts.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert facts.memory_bytes > 0
    assert facts.python.startswith("3.")
    assert facts.env == {"UCX_TLS": "sm", "NCCL_DEBUG": "INFO"}
    assert facts.missing_modules == []
    for disk in (facts.state, facts.runtime, facts.hub_cache):
        assert (disk.path, disk.is_writable, bool(disk.filesystem)) == (str(tmp_path), True, True)
        assert disk.free_bytes > 0
    assert facts.running_pid is None


def test_a_runtime_directory_that_is_not_used(place: Place, tmp_path: Path) -> None:
    assert not look(None, place, {"XDG_RUNTIME_DIR": str(tmp_path)}).runtime_is_fallback
    assert look(None, place, {"XDG_RUNTIME_DIR": "/elsewhere"}).runtime_is_fallback
    assert not look(None, place, {}).runtime_is_fallback


def test_a_secret(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    plan = plan_of(cluster_file(secret_file=str(file)))
    assert look(plan, place).secret_mode is None
    file.touch(0o640)
    assert look(plan, place).secret_mode == 0o640


@pytest.mark.usefixtures("limits")
def test_a_port_in_use_ends_a_start(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plan = fake_plan(taken.getsockname()[1])
        with pytest.raises(StartupError) as e:
            before_start(plan, place)
    assert "This machine cannot run the cluster:\n  ports: proxy cannot listen on " in e.value.message
    assert f"in use by pid {os.getpid()}" in e.value.message


@pytest.mark.usefixtures("limits")
def test_before_a_start_that_can_be(place: Place) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    warnings = before_start(fake_plan(0), place)
    assert all(": " in warning for warning in warnings)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_cluster_that_runs_is_seen(place: Place) -> None:
    with hold(place, "run"), socket.create_server(("127.0.0.1", 0)) as its_own:
        place.run_dir.parent.mkdir(exist_ok=True)
        facts = look(fake_plan(its_own.getsockname()[1]), place)
    assert (facts.running_pid, facts.busy) == (os.getpid(), {})


@pytest.mark.parametrize(
    ("status", "may"),
    [("CapEff:\t000001fffeffffff\n", True), ("Name: x\nCapEff:\t0000000000000000\n", False), ("", False)],
)
def test_capabilities(status: str, may: bool) -> None:
    assert has_capability(status, 14) is may


# --- control groups -------------------------------------------------------------------------------------------------


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text + "\n")


def limits_of(root: Path, membership: str) -> tuple[int | None, float | None]:
    (root / "membership").write_text(membership)
    where = (root, root / "membership")
    return cgroups.memory_limit_bytes(*where), cgroups.cpu_quota(*where)


def test_version_2_and_the_lowest_limit_on_the_way_up(tmp_path: Path) -> None:
    write(tmp_path / "a", memory__max="1000", cpu__max="150000 100000")
    write(tmp_path / "a" / "b", memory__max="max", cpu__max="max 100000")
    assert limits_of(tmp_path, "0::/a/b\n") == (1000, 1.5)


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "memory" / "a", memory__limit_in_bytes="2000")
    write(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712")
    write(tmp_path / "cpu,cpuacct" / "a", **{"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"})
    write(tmp_path / "cpu,cpuacct", **{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    assert limits_of(tmp_path, "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n") == (2000, 0.5)


@pytest.mark.parametrize("membership", ["", "0::/\n", "0::/not/there\n4:memory:/\n"])
def test_no_limit(tmp_path: Path, membership: str) -> None:
    assert limits_of(tmp_path, membership) == (None, None)
