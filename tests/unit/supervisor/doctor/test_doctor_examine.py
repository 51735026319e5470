"""What is said of a machine for a plan: machines and plans that are made up."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.plans import FAKE_ENGINE, GIB, cluster_file, host, plan_of
from msgspec.structs import replace

from trtdisagg.config.key_types import Backend
from trtdisagg.config.proxy_keys import ProxyConfig
from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.supervisor.doctor import Facts, Finding, examine
from trtdisagg.supervisor.doctor.facts import Disk, GpuState, NoPeerAccess
from trtdisagg.supervisor.doctor.surroundings import FOR_GPUS, WITHIN_HOST, allows
from trtdisagg.supervisor.plan import Plan

MIB = 2**20


def facts(**changes: Any) -> Facts:
    """A machine on which all is well."""
    disk = Disk(path="/d", free_bytes=100 * GIB, filesystem="ext4")
    good: dict[str, Any] = {
        "cores": list(range(8)),
        "memory_bytes": 16 * GIB,
        "shm": Disk(path="/dev/shm", free_bytes=GIB, filesystem="tmpfs"),
        "memlock_bytes": 8 * MIB,
        "open_files": 1_048_576,
        "state": disk,
        "hub_cache": disk,
        "runtime": disk,
    }
    return Facts(**{**good, **changes})


def nixl_plan(num_gpus: int = 0, *, backend: Backend = "NIXL", **keys: Any) -> Plan:
    section = ServerSection(cache_transceiver_config=CacheTransceiverConfig(backend=backend), **keys)
    return plan_of(cluster_file(context_servers=section, generation_servers=section), host(num_gpus=num_gpus))


def in_domains(*domains: str | None) -> list[GpuState]:
    """GPUs that are in NVLink domains."""
    return [
        GpuState(id=str(i), name="Card", free_bytes=90 * GIB, total_bytes=96 * GIB, domain=domain)
        for i, domain in enumerate(domains)
    ]


def of(topic: str, findings: list[Finding]) -> Finding:
    (found,) = [finding for finding in findings if finding.topic == topic]
    return found


def not_well(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.severity != "ok"]


@pytest.mark.parametrize("plan", [plan_of(cluster_file()), nixl_plan(), nixl_plan(num_gpus=2), None])
def test_all_is_well(plan: Plan | None) -> None:
    findings = examine(plan, facts())
    assert not_well(findings) == []
    assert all(finding.remedy == "" for finding in findings)


BIG = plan_of(cluster_file(), host(memory_bytes=64 * GIB))
"""Two servers with 2 GiB of KV cache each."""
_TWO = ServerSection(tensor_parallel_size=2)
RANKS = plan_of(cluster_file(context_servers=_TWO, generation_servers=_TWO))


@pytest.mark.parametrize(
    ("plan", "changes", "topic", "severity", "words"),
    [
        (
            BIG,
            {"memory_bytes": 3 * GIB},
            "memory",
            "error",
            "the plan needs about 4.7 GiB (",
        ),
        (BIG, {"memory_bytes": int(4.2 * GIB)}, "memory", "warning", "4.0 GiB of KV cache, 700 MiB of processes"),
        (
            replace(BIG, servers=[replace(BIG.servers[0], rank_weights=[2 * GIB]), BIG.servers[1]]),
            {"memory_bytes": 5 * GIB},
            "memory",
            "error",
            "2.0 GiB of weights",
        ),
        (BIG, {"memory_bytes": 4 * GIB + MIB, "swap_bytes": GIB}, "swap", "warning", "swapoff -a"),
        (BIG, {"cores": [3]}, "CPU cores", "warning", "2 servers compute on them"),
        (RANKS, {"cores": [1, 2, 3]}, "CPU cores", "warning", "4 ranks of 2 servers compute on them"),
        (BIG, {"cpu_quota": 1.5}, "CPU cores", "warning", "the control group allows 1.5"),
        (BIG, {"cpu_quota": 3.0}, "CPU cores", "warning", "give 3 `cores`"),
        (BIG, {"open_files": 1024}, "open files", "warning", "the proxy may need 12416. `ulimit -Hn 12416`"),
        (BIG, {"busy": {"proxy": "pid 7 has it"}}, "ports", "error", "pid 7 has it"),
        (BIG, {"runtime": Disk(path="/r", free_bytes=1, is_writable=False)}, "runtime directory", "error", "/r cannot"),
        (BIG, {"runtime": Disk(path="/r", free_bytes=GIB, filesystem="nfs4")}, "runtime directory", "warning", "tmpfs"),
        (BIG, {"runtime": Disk(path="/r", free_bytes=4096)}, "runtime directory", "error", "is full"),
        (BIG, {"busy": {"proxy": "no such host"}}, "ports", "error", "--set hostname="),
        (BIG, {"runtime_is_fallback": True}, "runtime directory", "warning", "path is too long"),
        (BIG, {"state": Disk(path="/s", free_bytes=MIB)}, "logs", "warning", "logs grow to 256 MiB"),
        (BIG, {"state": Disk(path="/s", free_bytes=1, is_writable=False)}, "logs", "error", "XDG_STATE_HOME"),
        (BIG, {"hub_cache": Disk(path="/h", free_bytes=MIB)}, "hub cache", "warning", "HF_HOME"),
        (BIG, {"missing_modules": ["torch"]}, "packages", "error", "`pip install torch`"),
        (nixl_plan(), {"missing_modules": ["nixl"]}, "packages", "error", "backend: LOCAL"),
        (nixl_plan(), {"shm": Disk(path="/dev/shm", free_bytes=8 * MIB)}, "shared memory", "warning", "--shm-size"),
        (nixl_plan(), {"shm": None}, "shared memory", "warning", "there is no /dev/shm; UCX (for NIXL) takes 8.6 MiB"),
        (nixl_plan(), {"ptrace_scope": 2}, "process memory", "warning", "ptrace_scope=1`, or cache_tran"),
        (nixl_plan(), {"network_devices": ["mlx5_0"]}, "locked memory", "warning", "with mlx5_0, which locks it"),
        (nixl_plan(), {"env": {"UCX_TLS": "rc,self"}}, "environment", "warning", "UCX_TLS=rc,self; context-0, gen"),
        (nixl_plan(2), {"env": {"UCX_TLS": "sm,self"}}, "environment", "error", "could not read GPU memory"),
        (
            nixl_plan(),
            {"env": {"UCX_TLS": "tcp"}, "is_slurm_job": True},
            "environment",
            "warning",
            "in the batch script",
        ),
        (nixl_plan(backend="UCX"), {"env": {"UCX_TLS": "tcp"}}, "environment", "warning", "over the network"),
        (
            nixl_plan(),
            {"env": {"UCX_NET_DEVICES": "mlx5_9:1"}},
            "environment",
            "warning",
            "none of these devices is on",
        ),
        (nixl_plan(2), {"env": {"UCX_MEMTYPE_CACHE": "y"}}, "environment", "warning", "UCX_MEMTYPE_CACHE=n"),
        (nixl_plan(2), {"env": {"UCX_RNDV_SCHEME": "am"}}, "environment", "warning", "fragments through host memory"),
        (nixl_plan(2), {"gpus": in_domains("a", "b")}, "NVLink domain", "warning", "UCX_CUDA_IPC_ENABLE_MNNVL=n in"),
        (nixl_plan(2), {"gpus": in_domains("a", None)}, "NVLink domain", "warning", "GPU 0 in a, others in none"),
        (
            nixl_plan(2, env={"UCX_CUDA_IPC_ENABLE_MNNVL": "y"}),
            {"gpus": in_domains("a", "b")},
            "environment",
            "warning",
            "several NVLink domains",
        ),
        (
            nixl_plan(2),
            {"gpus": in_domains(None, None), "network_devices": ["mlx5_0"]},
            "GPUDirect RDMA",
            "warning",
            "mlx5_0 cannot reach GPU memory",
        ),
        (nixl_plan(2), {"no_peer_access": [NoPeerAccess(one="0", other="1", why="x")]}, "GPU peers", "warning", "(x)"),
    ],
)
def test_what_is_not_well_says_what_who_and_how(
    plan: Plan, changes: dict[str, Any], topic: str, severity: str, words: str
) -> None:
    # There may be others of its kind that are well.
    found = [f for f in examine(plan, facts(**changes)) if f.topic == topic]
    (finding,) = [f for f in found if f.severity != "ok"] or found
    assert finding.severity == severity
    assert words in str(finding)
    assert finding.remedy


def test_a_gpu_that_somebody_else_uses() -> None:
    plan = nixl_plan(2)
    gpus = [GpuState(id=str(i), name="Card", free_bytes=(1 + 90 * i) * GIB, total_bytes=96 * GIB) for i in range(2)]
    findings = examine(plan, facts(gpus=gpus, gpu_driver="570.1"))
    assert of("GPU 0", findings).severity == "error"
    assert "context-0 need 72.0 GiB" in of("GPU 0", findings).needs
    assert of("GPU 1", findings).severity == "ok"
    assert "driver 570.1" in of("GPU 1", findings).found


def test_what_nobody_uses_is_no_matter() -> None:
    """LOCAL needs neither /dev/shm, nor nixl, nor UCX's variables; a foreign engine brings its own packages."""
    section = ServerSection(cache_transceiver_config=CacheTransceiverConfig(backend="LOCAL"))
    plan = plan_of(cluster_file(context_servers=section, generation_servers=section))
    changes = {
        "shm": None,
        "missing_modules": ["nixl"],
        "env": {"UCX_TLS": "rc"},
        "network_devices": ["mlx5_0"],
        "ptrace_scope": 3,
    }
    assert not_well(examine(plan, facts(**changes))) == []
    foreign = ServerSection(command=FAKE_ENGINE)
    plan = plan_of(cluster_file(context_servers=foreign, generation_servers=foreign))
    assert not_well(examine(plan, facts(missing_modules=["torch", "nixl"]))) == []


def test_memory_may_be_locked_without_limit_or_pools_are_small() -> None:
    devices = {"network_devices": ["mlx5_0"]}
    assert of("locked memory", examine(nixl_plan(), facts(memlock_bytes=None, **devices))).severity == "ok"
    assert of("locked memory", examine(nixl_plan(2), facts(memlock_bytes=1, **devices))).severity == "ok"


def test_what_a_section_sets_counts_over_what_is_inherited() -> None:
    plan = nixl_plan(env={"UCX_TLS": "sm,self"})
    finding = of("environment", examine(plan, facts(env={"UCX_TLS": "rc"})))
    assert (finding.severity, finding.found) == ("ok", "UCX_TLS=sm,self")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peer_memory_module": "nvidia_peermem"}, "nvidia_peermem is loaded"),
        ({"driver_is_open": True}, "by dma-buf"),
    ],
)
def test_network_devices_reach_gpu_memory(changes: dict[str, Any], words: str) -> None:
    there = facts(gpus=in_domains(None, None), network_devices=["mlx5_0"], memlock_bytes=None, **changes)
    finding = of("GPUDirect RDMA", examine(nixl_plan(2), there))
    assert (finding.severity, finding.found.startswith(words)) == ("ok", True)


def test_gpus_of_one_domain_are_compared_between_hosts() -> None:
    finding = of("NVLink domain", examine(nixl_plan(2), facts(gpus=in_domains("a", "a"))))
    assert (finding.severity, finding.found) == ("ok", "GPU 0 in a, GPU 1 in a")
    assert "UCX_CUDA_IPC_ENABLE_MNNVL=n" in finding.needs


@pytest.mark.parametrize("value", ["mlx5_0:1", "eth0", "all", "nope,mlx5_0:1", "^nope"])
def test_devices_that_are_there(value: str) -> None:
    there = facts(env={"UCX_NET_DEVICES": value}, network_devices=["mlx5_0"], interfaces=["eth0"], memlock_bytes=None)
    assert not_well(examine(nixl_plan(), there)) == []


def test_a_trap_that_a_section_puts_right_is_none() -> None:
    plan = nixl_plan(2, env={"UCX_MEMTYPE_CACHE": "n"})
    assert not_well(examine(plan, facts(env={"UCX_MEMTYPE_CACHE": "y"}))) == []


def test_variables_are_shown() -> None:
    found = examine(None, facts(env={"NCCL_IB_HCA": "mlx5", "UCX_TLS": "rc"}))
    assert of("environment", found).found == "NCCL_IB_HCA=mlx5 UCX_TLS=rc"


def test_a_cluster_that_runs_has_its_own_ports_and_memory() -> None:
    findings = examine(BIG, facts(running_pid=77, memory_bytes=MIB, swap_bytes=GIB))
    assert not_well(findings) == []
    assert "pid 77" in of("ports", findings).found


def test_fewer_requests_in_flight_need_fewer_files() -> None:
    plan = plan_of(cluster_file(proxy=ProxyConfig(max_in_flight=10)))
    assert "context-0 may need 1216" in of("open files", examine(plan, facts())).needs


@pytest.mark.parametrize(("mode", "severity"), [(0o600, "ok"), (0o644, "error"), (None, "error")])
def test_secret(mode: int | None, severity: str) -> None:
    plan = plan_of(cluster_file(secret_file="/x/secret"))
    assert of("secret", examine(plan, facts(secret_mode=mode))).severity == severity


@pytest.mark.parametrize("clock_is_set", [True, False, None])
def test_the_clock_matters_between_hosts(clock_is_set: bool | None) -> None:
    remote = plan_of(cluster_file(model=None, context_servers=None, generation_servers=ServerSection(urls=["far:1"])))
    severity = of("clock", examine(remote, facts(clock_is_set=clock_is_set))).severity
    assert severity == ("warning" if clock_is_set is False else "ok")
    assert of("clock", examine(BIG, facts(clock_is_set=clock_is_set))).severity == "ok"


@pytest.mark.parametrize(
    ("tls", "within_host", "for_gpus"),
    [
        ("all", True, True),
        ("tcp", False, False),
        ("rc,self", False, False),
        ("rc,sm,self", True, False),
        ("cma,tcp", True, False),
        ("rc,cuda_copy", False, True),
        ("^tcp", True, True),
        ("^sm", False, True),
        ("^cuda", True, False),
    ],
)
def test_what_ucx_is_allowed(tls: str, within_host: bool, for_gpus: bool) -> None:
    assert (allows(tls, WITHIN_HOST), allows(tls, FOR_GPUS)) == (within_host, for_gpus)
