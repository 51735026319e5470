"""The plan of a file over several nodes, with made-up hosts: what each rank gets, and who stays when it changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from helpers.plans import GIB, cluster_file, host, plan_of
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import CacheTransceiverConfig, KvCacheConfig, ServerSection
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rank_plan import rank_env


def node(i: int, machine: Host, **facts: Any) -> Node:
    return Node(name=f"node{i:02}", address=f"10.0.0.{i}", host=machine, **facts)


def nodes(*gpus: int, num_cores: int = 8) -> list[Node]:
    return [node(i, host(num_cores, number)) for i, number in enumerate(gpus, 1)]


def section(number: int = 1, tp: int = 1, **keys: Any) -> ServerSection:
    return ServerSection(num_instances=number, tensor_parallel_size=tp, **keys)


def file(context: ServerSection, generation: ServerSection, **keys: Any) -> ClusterFile:
    return cluster_file(context_servers=context, generation_servers=generation, **keys)


def servers(plan: Plan) -> dict[str, ChildPlan]:
    return {server.name: server for server in plan.servers}


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2]), st.lists(st.integers(0, 4), min_size=1))
def test_no_gpu_and_no_core_of_a_node_has_two_ranks(
    num_context: int, num_generation: int, tp: int, gpus: list[int]
) -> None:
    there = nodes(*gpus, num_cores=64)
    try:
        plan = plan_of(file(section(num_context, tp), section(num_generation)), nodes=there)
    except ConfigError:
        return
    memories = Counter(memory for server in plan.servers for memory in server.memories if memory[1] is not None)
    assert all(count == 1 for count in memories.values())
    cores = Counter(
        (name, core)
        for server in plan.servers
        for name, mine in zip(server.nodes, server.rank_cores, strict=True)
        for core in mine
    )
    assert all(count == 1 for count in cores.values())
    assert all(len(server.nodes) == server.num_ranks for server in plan.servers)
    assert any(gpus) == bool(memories)


def test_a_server_listens_at_the_address_of_its_node() -> None:
    plan = plan_of(file(section(2), section(1, 2)), nodes=nodes(2, 2))
    found = servers(plan)
    assert [server.nodes for server in plan.servers] == [["node01"], ["node01"], ["node02", "node02"]]
    assert [server.spec.host for server in plan.servers] == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    assert found["context-1"].gpus == ["1"]
    assert found["generation-0"].gpus == ["0", "1"]
    assert plan.makes_secret
    assert found["generation-0"].env["GLOO_SOCKET_IFNAME"] == "lo"


def test_who_reaches_the_proxy_is_told() -> None:
    files = [file(section(), section(), hostname=hostname) for hostname in ("localhost", "node01")]
    told = [plan_of(cluster, nodes=nodes(1, 1)).notices for cluster in files]
    assert [any("only node01 reaches the proxy" in line for line in notices) for notices in told] == [True, False]


def test_a_node_that_may_be_away_for_longer_than_its_servers_is_told() -> None:
    def told(**supervision: float) -> bool:
        cluster = replace(file(section(), section()), supervision=SupervisionConfig(**supervision))
        return any("longer than stall_timeout_s" in line for line in plan_of(cluster, nodes=nodes(1, 1)).notices)

    assert [told(), told(node_timeout_s=21), told(node_timeout_s=21, stall_timeout_s=21)] == [False, True, False]


def test_a_server_over_two_nodes() -> None:
    server = plan_of(file(section(gpus=[]), section(1, 4)), nodes=nodes(2, 2)).servers[1]
    assert server.nodes == ["node01", "node01", "node02", "node02"]
    assert server.gpus == ["0", "1", "0", "1"]
    assert [rank_env(server, rank)["CUDA_VISIBLE_DEVICES"] for rank in range(4)] == server.gpus
    assert "GLOO_SOCKET_IFNAME" not in server.env
    assert "NCCL_SOCKET_IFNAME" not in server.env


def test_urls_name_nodes_and_others_are_routed_to() -> None:
    context = section(2, urls=["node02:8001", "elsewhere:8001"])
    plan = plan_of(file(context, section(1), secret_file="s"), nodes=nodes(1, 1))
    found = servers(plan)
    assert found["context-0"].url == "10.0.0.2:8001"
    assert found["generation-0"].nodes == ["node01"]
    assert [server.url for server in plan.upstream] == ["elsewhere:8001"]


def test_memory_is_divided_on_each_node_by_itself() -> None:
    """Two servers on the small node share it; the one on the large node has its pool for itself."""
    there = [node(1, host(memory_bytes=16 * GIB)), node(2, host(memory_bytes=1 * GIB))]
    keys = {"kv_cache_config": KvCacheConfig(max_tokens=4_000_000), "max_seq_len": 64}
    context = section(2, urls=["node02:1", "node02:2"], **keys)
    found = servers(plan_of(file(context, section(1, **keys)), nodes=there))
    sizes = {name: server.pool_bytes or 0 for name, server in found.items()}
    assert sizes["context-0"] == sizes["context-1"] < sizes["generation-0"]


def test_too_little_memory_names_the_node() -> None:
    there = [node(1, host(memory_bytes=16 * GIB)), node(2, host(memory_bytes=1))]
    with pytest.raises(StartupError, match="generation-0: too little memory on node02"):
        plan_of(file(section(), section()), nodes=there)


def test_what_a_node_has_not_names_the_node() -> None:
    with pytest.raises(ConfigError, match=r"node02: generation_servers.gpus: there is no GPU 3 here"):
        plan_of(file(section(1, 2), section(1, gpus=[3])), nodes=nodes(2, 2))


def test_local_transfers_are_for_one_node() -> None:
    local = CacheTransceiverConfig(backend="LOCAL")
    both = (section(cache_transceiver_config=local), section(cache_transceiver_config=local))
    with pytest.raises(ConfigError, match=r"LOCAL moves KV within one host, .* node01, node02: use DEFAULT"):
        plan_of(file(*both), nodes=nodes(0, 0))
    assert len(plan_of(file(*both), nodes=nodes(0)).servers) == 2


def test_it_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"generation-1 needs 4 GPUs on one node"):
        plan_of(file(section(1, 4), section(2, 4)), nodes=nodes(4, 4))


# --- while servers run ----------------------------------------------------------------------------------------------


def keep(plan: Plan) -> dict[str, ChildPlan]:
    return servers(plan)


def test_who_runs_stays_and_who_comes_gets_what_is_free() -> None:
    there = nodes(2, 2)
    before = plan_of(file(section(1), section(1)), nodes=there)
    numbers = {"context": [0, 1], "generation": [0, 1]}
    after = plan_of(file(section(1), section(1)), nodes=there, keep=keep(before), numbers=numbers, resident={})
    assert [servers(after)[name] for name in ("context-0", "generation-0")] == before.servers
    places = [memory for server in after.servers for memory in server.memories]
    assert places == [("node01", "0"), ("node02", "0"), ("node01", "1"), ("node02", "1")]


def test_a_node_that_is_lost_keeps_its_servers_and_gets_no_more() -> None:
    there = nodes(2, 2)
    before = plan_of(file(section(1, 2), section(1)), nodes=there)
    lost = [there[0], replace(there[1], is_here=False)]
    numbers = {"context": [0], "generation": [0]}
    after = plan_of(file(section(1, 2), section(1)), nodes=lost, keep=keep(before), numbers=numbers, resident={})
    assert after.servers == before.servers
    numbers = {"context": [0], "generation": [0, 1]}
    with pytest.raises(ConfigError, match=r"generation-1 needs 1 GPU on one node, and there are left 0 on node01: 1"):
        plan_of(file(section(1, 2), section(1)), nodes=lost, keep=keep(before), numbers=numbers, resident={})


def test_on_other_nodes_free_is_what_was_free_before_there_were_servers() -> None:
    """Their agents told it when they started, so what runs there by now has to be taken off."""
    there = [node(1, host()), node(2, host(memory_bytes=1 * GIB))]
    keys = {"kv_cache_config": KvCacheConfig(max_tokens=500_000), "max_seq_len": 64}
    cluster = file(section(), section(1, urls=["node02:1"], **keys))
    before = plan_of(cluster, nodes=there)
    resident = {server.name: server.pool_bytes or 0 for server in before.servers}
    numbers = {"context": [0], "generation": [0, 1]}
    cluster = file(section(), section(2, urls=["node02:1", "node02:2"], **keys))
    after = plan_of(cluster, nodes=there, keep=keep(before), numbers=numbers, resident=resident)
    first, second = servers(after)["generation-0"], servers(after)["generation-1"]
    assert first == before.servers[1]
    assert (first.pool_bytes or 0) + (second.pool_bytes or 0) < 1 * GIB


def test_settings_change_with_the_node() -> None:
    """A server that moves has to be started anew."""
    cluster = file(section(), section())
    before = plan_of(cluster, nodes=nodes(1, 1))
    moved = file(section(1, urls=["node02:0"]), section(1, urls=["node01:0"]))
    after = plan_of(moved, nodes=nodes(1, 1), keep=keep(before), resident={})
    assert [server.nodes for server in after.servers] == [["node02"], ["node01"]]
    assert [a.settings == b.settings for a, b in zip(after.servers, before.servers, strict=True)] == [False, False]
    assert isinstance(after.servers[0].spec, EngineSpec)
