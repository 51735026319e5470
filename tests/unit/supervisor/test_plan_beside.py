"""Planning while servers run: who stays as it is, who is planned anew, what the new ones get."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.plans import GIB, TINY, cluster_file, host, made_up_gpu, plan_of
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from trtdisagg.config.proxy_keys import ProxyConfig
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import KvCacheConfig, RouterConfig, SchedulerConfig, ServerSection
from trtdisagg.config.supervisor_keys import AutoscaleConfig, DisaggCluster, MinimalInstances, SupervisionConfig
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.proxy_spec import ProxySpec, RegistrySpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.slots import slots


def children(plan: Plan) -> dict[str, ChildPlan]:
    return {child.name: child for child in plan.children}


def with_gpus(*free_bytes: int) -> Host:
    gpus = [made_up_gpu(i, free_bytes=n) for i, n in enumerate(free_bytes)]
    return host(gpus=gpus)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_file() -> None:
    file = cluster_file(context_servers=ServerSection(num_instances=2))
    assert [slot.name for slot in slots(file)] == ["context-0", "context-1", "generation-0"]


def test_numbers_say_which_servers_a_group_has() -> None:
    assert [slot.name for slot in slots(cluster_file(), {"context": [0, 2], "generation": [0]})] == [
        "context-0",
        "context-2",
        "generation-0",
    ]
    entries = [ModelEntry(name=n, model=n, generation_servers=ServerSection()) for n in ("small", "large")]
    names = [slot.name for slot in slots(ClusterFile(models=entries), {"large.generation": [1, 3]})]
    assert names == ["large.generation-1", "large.generation-3"]


def test_beyond_the_listed_urls_a_server_gets_a_port_of_the_first_ones_host() -> None:
    file = cluster_file(context_servers=ServerSection(urls=["10.0.0.5:8001", "10.0.0.6:8001"], num_instances=2))
    assert [slot.url for slot in slots(file, {"context": [1, 2]})] == ["10.0.0.6:8001", "10.0.0.5:0"]


def test_a_group_of_both_roles_may_be_scaled() -> None:
    section = ServerSection(urls=["10.0.0.5:8001"])
    file = cluster_file(context_servers=section, generation_servers=section)
    assert [slot.name for slot in slots(file)] == ["both-0"]
    found = {slot.name: slot.url for slot in slots(file, {"both": [0, 1], "generation": [0]})}
    assert found == {"both-0": "10.0.0.5:8001", "both-1": "10.0.0.5:0", "generation-0": "10.0.0.5:0"}


def test_a_group_that_the_file_has_no_section_for_cannot_be_scaled() -> None:
    with pytest.raises(ConfigError, match="context: the cluster file has no section for such servers; it has: gen"):
        plan_of(ClusterFile(model="tiny", generation_servers=ServerSection()), numbers={"context": [0]})


def test_a_server_cannot_be_started_on_another_host() -> None:
    file = cluster_file(context_servers=ServerSection(urls=["node7:8001"]))
    with pytest.raises(ConfigError, match=r"context-1 would be on node7, .* add its address to context_servers.urls"):
        plan_of(file, numbers={"context": [0, 1], "generation": [0]})


@pytest.mark.parametrize("numbers", [{"context": [0]}, {"context": [0], "generation": []}, {}])
def test_the_last_server_that_generates_stays(numbers: dict[str, list[int]]) -> None:
    with pytest.raises(ConfigError, match="generation_servers: none, and nothing else generates"):
        plan_of(cluster_file(), numbers=numbers)


def test_each_model_keeps_a_server_that_generates() -> None:
    sections = {"context_servers": ServerSection(), "generation_servers": ServerSection()}
    file = ClusterFile(models=[ModelEntry(name=n, model=n, **sections) for n in ("small", "large")])
    with pytest.raises(ConfigError, match="generation_servers: none of large, and nothing else generates"):
        plan_of(file, numbers={"small.generation": [0], "large.context": [0]})


def test_servers_of_other_agents_may_generate() -> None:
    file = cluster_file(disagg_cluster=DisaggCluster(cluster_uri="etcd://localhost:2379"))
    assert [s.name for s in plan_of(file, numbers={"context": [0]}).servers] == ["context-0"]


# --- who stays ------------------------------------------------------------------------------------------------------


def test_who_stays_is_not_planned_anew() -> None:
    file = cluster_file(context_servers=ServerSection(num_instances=2))
    before = plan_of(file, host(memory_bytes=1 * GIB))
    after = plan_of(
        file, host(memory_bytes=GIB // 2), keep=children(before), numbers={"context": [0], "generation": [0, 1]}
    )
    assert [s.name for s in after.servers] == ["context-0", "generation-0", "generation-1"]
    assert after.servers[:2] == [before.servers[0], before.servers[2]]
    assert after.servers[2].cores == before.servers[1].cores, "those of the server that leaves are free"
    assert after.proxy == before.proxy


def test_who_changes_keeps_its_place() -> None:
    section = ServerSection(num_instances=2)
    before = plan_of(cluster_file(context_servers=section), host(num_gpus=4))
    order = dict(reversed(children(before).items()))
    changed = cluster_file(context_servers=replace(section, max_batch_size=1, num_instances=1))
    after = plan_of(changed, host(num_gpus=4), keep=order, numbers={"context": [1], "generation": [0]})
    was, now = children(before)["context-1"], children(after)["context-1"]
    assert (now.gpus, now.cores) == (was.gpus, was.cores)
    assert now.settings != was.settings
    assert isinstance(now.spec, EngineSpec)
    assert now.spec.max_batch_size == 1
    assert children(after)["generation-0"] == children(before)["generation-0"]


def test_a_longer_list_of_gpus_moves_nobody() -> None:
    before = plan_of(cluster_file(context_servers=ServerSection(gpus=[0])), host(num_gpus=3))
    file = cluster_file(context_servers=ServerSection(gpus=[2, 0], num_instances=2))
    after = plan_of(file, host(num_gpus=3), keep=children(before))
    assert after.servers[0] == before.servers[0]
    assert [s.gpus for s in after.servers] == [["0"], ["2"], ["1"]]


def test_who_may_not_stay_on_its_gpu_is_planned_anew() -> None:
    before = plan_of(cluster_file(context_servers=ServerSection(gpus=[0])), host(num_gpus=3))
    after = plan_of(cluster_file(context_servers=ServerSection(gpus=[2])), host(num_gpus=3), keep=children(before))
    assert after.servers[0].gpus == ["2"]
    assert after.servers[0].settings != before.servers[0].settings
    assert after.servers[1] == before.servers[1]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_new_server_divides_only_what_is_free_now() -> None:
    before = plan_of(cluster_file(), host(memory_bytes=4 * GIB))
    after = plan_of(
        cluster_file(), host(memory_bytes=GIB), keep=children(before), numbers={"context": [0], "generation": [0, 1]}
    )
    share = int(0.9 * (GIB - TINY.weight_bytes("bfloat16")))
    assert 0 <= share - (children(after)["generation-1"].pool_bytes or 0) < TINY.kv_bytes_per_token("bfloat16") * 32


def test_who_changes_gets_back_what_it_holds() -> None:
    machine = with_gpus(80 * GIB, 80 * GIB)
    before = plan_of(cluster_file(), machine)
    in_use = with_gpus(GIB, GIB)
    changed = cluster_file(context_servers=ServerSection(max_batch_size=1))
    after = plan_of(changed, in_use, keep=children(before))
    held = (before.servers[0].pool_bytes or 0) + TINY.weight_bytes("bfloat16")
    share = int(0.9 * (GIB + held - TINY.weight_bytes("bfloat16")))
    assert before.servers[0].rank_weights == [TINY.weight_bytes("bfloat16")]
    assert 0 <= share - (after.servers[0].pool_bytes or 0) < TINY.kv_bytes_per_token("bfloat16") * 32
    assert after.servers[1] == before.servers[1]


def test_a_new_server_gets_the_memory_of_one_that_leaves() -> None:
    machine = host(memory_bytes=300_000)
    file = cluster_file(context_servers=ServerSection(kv_cache_config=KvCacheConfig(max_tokens=512)))
    before = plan_of(file, host(memory_bytes=GIB), numbers={"context": [0, 1], "generation": [0]})
    keep = children(before)
    with pytest.raises(StartupError, match="context-2: too little memory"):
        plan_of(file, machine, keep=keep, numbers={"context": [0, 1, 2], "generation": [0]})
    after = plan_of(file, machine, keep=keep, numbers={"context": [1, 2], "generation": [0]})
    assert [s.name for s in after.servers] == ["context-1", "context-2", "generation-0"]


_BLOCK_BYTES = TINY.kv_bytes_per_token("bfloat16") * 32
_WEIGHT_BYTES = TINY.weight_bytes("bfloat16")


def share_of(plan: Plan, name: str) -> int:
    """The memory that one new server's pool was a share of, to a block."""
    return children(plan)[name].pool_bytes or 0


def test_who_has_not_taken_its_memory_yet_still_gets_it() -> None:
    """Of a host with 3 GiB that one server was planned to take 2 GiB of, and does not have yet, 1 GiB is free."""
    before = plan_of(ClusterFile(model="tiny", generation_servers=ServerSection()), host(memory_bytes=3 * GIB))
    held = sum(before.servers[0].rank_bytes)
    assert 2 * GIB <= held < 2 * GIB + 10**6
    for resident, free in ((None, 3 * GIB), ({}, 3 * GIB - held), ({"generation-0": GIB}, 4 * GIB - held)):
        options: dict[str, Any] = {"keep": children(before), "resident": resident}
        file = ClusterFile(model="tiny", generation_servers=ServerSection(num_instances=2))
        plan = plan_of(file, host(memory_bytes=3 * GIB), **options)
        wanted = min(2 * GIB, int(0.9 * (free - _WEIGHT_BYTES)))
        assert 0 <= wanted - share_of(plan, "generation-1") < _BLOCK_BYTES


@pytest.mark.parametrize("resident", [None, {}])
def test_what_a_dead_server_held_is_not_free_twice(resident: dict[str, int] | None) -> None:
    machine = with_gpus(80 * GIB, 80 * GIB)
    before = plan_of(cluster_file(), machine)
    changed = cluster_file(context_servers=ServerSection(max_batch_size=1))
    after = plan_of(changed, machine, keep=children(before), resident=resident)
    assert 0 <= int(0.9 * (80 * GIB - _WEIGHT_BYTES)) - share_of(after, "context-0") < _BLOCK_BYTES


# --- roles ----------------------------------------------------------------------------------------------------------


def test_a_server_that_was_switched() -> None:
    file = cluster_file(generation_servers=ServerSection(num_instances=2))
    before = plan_of(file)
    after = plan_of(file, keep=children(before), roles={"generation-1": "context"})
    was, now = before.servers[2], after.servers[2]
    assert isinstance(now.spec, EngineSpec)
    assert (now.name, now.role, now.spec.role) == ("generation-1", "context", "context")
    assert now.settings == was.settings, "a role can be changed while it runs"
    assert now.cores == was.cores


def test_the_last_server_that_generates_is_not_switched() -> None:
    with pytest.raises(ConfigError, match="nothing else generates"):
        plan_of(cluster_file(), roles={"generation-0": "context"})


def test_a_switched_server_makes_its_new_role_needed() -> None:
    file = ClusterFile(model="tiny", generation_servers=ServerSection(num_instances=2))
    assert plan_of(file).needs == {"tiny": ["generation"]}
    assert plan_of(file, roles={"generation-1": "context"}).needs == {"tiny": ["context", "generation"]}


# --- settings -------------------------------------------------------------------------------------------------------

_SECTION_KEYS: dict[str, Any] = {
    "max_batch_size": 3,
    "max_num_tokens": 100,
    "max_seq_len": 100,
    "max_queue_size": 10,
    "dtype": "float32",
    "quantization": "int8",
    "scheduler_config": SchedulerConfig(capacity_scheduler_policy="GUARANTEED_NO_EVICT"),
    "enable_chunked_prefill": False,
    "stream_interval": 4,
    "disable_overlap_scheduler": True,
    "kv_cache_config": KvCacheConfig(max_tokens=4096),
    "env": {"A": "1"},
    "command": ["my-engine"],
    "gpus": [0],
    "cores": [7],
    "extra_llm_api_options": "x.yaml",
    "urls": ["localhost:8001"],
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "enable_attention_dp": True,
    "perf_metrics_max_requests": 5,
    "return_perf_metrics": True,
    "enable_pdl": True,
}
_NOT_OF_ONE_SERVER: dict[str, Any] = {"num_instances": 2, "router": RouterConfig()}
_WITH_OTHERS = {"cache_transceiver_config", "pp_partition", "moe_tensor_parallel_size", "moe_expert_parallel_size"}
"""Those that need another key, or a model with experts."""


def settings(file: ClusterFile, keep: Plan | None = None) -> str:
    plan = plan_of(file, host(num_gpus=3), keep=children(keep) if keep else {})
    return next(s.settings for s in plan.servers if s.name == "context-0")


@pytest.mark.parametrize("key", _SECTION_KEYS)
def test_a_key_of_a_section_that_reaches_a_server_changes_its_settings(key: str) -> None:
    before = plan_of(cluster_file(context_servers=ServerSection(gpus=[1, 2])), host(num_gpus=3))
    both = {"dtype"} & {key}
    sections = {"context_servers": ServerSection(**{"gpus": [1, 2], key: _SECTION_KEYS[key]})}
    sections |= {"generation_servers": ServerSection(**{key: _SECTION_KEYS[key]})} if both else {}
    assert settings(cluster_file(**sections), before) != before.servers[0].settings


def test_every_key_of_a_section_is_thought_of() -> None:
    assert set(ServerSection.__struct_fields__) == {*_SECTION_KEYS, *_NOT_OF_ONE_SERVER, *_WITH_OTHERS}


@pytest.mark.parametrize("key", _NOT_OF_ONE_SERVER)
def test_what_is_not_about_one_server_changes_no_settings(key: str) -> None:
    before = plan_of(cluster_file(), host(num_gpus=3))
    file = cluster_file(context_servers=ServerSection(**{key: _NOT_OF_ONE_SERVER[key]}))
    assert settings(file, before) == before.servers[0].settings


_FILE_KEYS: dict[str, tuple[Any, bool, bool]] = {
    "model": ("other", True, True),
    "served_model_name": ("other", True, True),
    "secret_file": ("/secret", True, True),
    "proxy": (ProxyConfig(max_body_bytes=7), True, True),
    "port": (8001, False, True),
    "hostname": ("127.0.0.2", False, True),
    "max_retries": (7, False, True),
    "disagg_cluster": (DisaggCluster(cluster_uri="etcd://localhost:2379"), False, True),
    "supervision": (SupervisionConfig(drain_timeout_s=1), False, False),
    "autoscale": (AutoscaleConfig(enabled=True), False, False),
    "name": ("other", False, False),
}
"""Key: a value, whether it reaches the servers, whether it reaches the proxy."""


@pytest.mark.parametrize("key", _FILE_KEYS)
def test_keys_of_the_file_change_the_settings_of_whom_they_reach(key: str) -> None:
    value, of_servers, of_proxy = _FILE_KEYS[key]
    before = plan_of(cluster_file())
    after = plan_of(cluster_file(**{key: value}), keep=children(before))
    for server, was in zip(after.servers, before.servers, strict=True):
        assert (server.settings != was.settings) == of_servers
    assert before.proxy is not None
    assert after.proxy is not None
    assert (after.proxy.settings != before.proxy.settings) == of_proxy


# --- for others -----------------------------------------------------------------------------------------------------


def test_where_servers_of_others_register() -> None:
    assert plan_of(cluster_file()).registry is None
    config = DisaggCluster(
        cluster_uri="etcds://a:2379",
        cluster_name="mine",
        minimal_instances=MinimalInstances(context_servers=2),
        inactive_timeout_sec=3,
        user="me",
        password_file="/p",
    )
    plan = plan_of(cluster_file(disagg_cluster=config, autoscale=AutoscaleConfig(enabled=True)))
    assert plan.registry == RegistrySpec(
        uri="etcds://a:2379",
        cluster_name="mine",
        minimal_instances={"context": 2, "generation": 1},
        inactive_s=3,
        user="me",
        password_file="/p",
    )
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    assert plan.proxy.spec.registry == plan.registry
    assert plan.autoscale.enabled


# --- many steps -----------------------------------------------------------------------------------------------------

_STEP = st.fixed_dictionaries(
    {
        "context": st.sets(st.integers(0, 3)),
        "generation": st.sets(st.integers(0, 3), min_size=1),
        "max_batch_size": st.integers(1, 2),
        "gpus": st.sampled_from([None, [], [0, 1, 2]]),
    }
)


@given(steps=st.lists(_STEP, max_size=6), num_gpus=st.integers(3, 8))
def test_whatever_is_asked_for_in_turn(steps: list[dict[str, Any]], num_gpus: int) -> None:
    """Each keeps its place while it may, none has the GPU of another unasked, and asking again changes nothing."""
    machine = host(num_cores=5, num_gpus=num_gpus)
    running: dict[str, ChildPlan] = {}
    for step in steps:
        section = ServerSection(max_batch_size=step["max_batch_size"])
        file = cluster_file(context_servers=replace(section, gpus=step["gpus"]), generation_servers=section)
        numbers = {"context": sorted(step["context"]), "generation": sorted(step["generation"])}
        try:
            plan = plan_of(file, machine, keep=running, numbers=numbers)
        except StartupError:  # too few GPUs: all goes on as it was
            assert num_gpus < len(step["context"]) + len(step["generation"]) + 3
            continue
        assert [s.name for s in plan.servers] == [f"{role}-{i}" for role, mine in numbers.items() for i in mine]
        for server in plan.servers:
            assert server.cores
            assert (server == running.get(server.name)) == (
                server.name in running and server.settings == running[server.name].settings
            )
        alone = [g for s in plan.servers if s.role == "generation" or step["gpus"] is None for g in s.gpus]
        assert len(alone) == len(set(alone))
        running = children(plan)
        assert plan_of(file, machine, keep=running, numbers=numbers).children == plan.children
