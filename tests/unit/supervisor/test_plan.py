"""The plan as tables: what a cluster file becomes on a given machine."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers.plans import GIB, TINY, cluster_file, host, made_up_gpu, plan_of
from msgspec.structs import replace

from trtdisagg.config.proxy_keys import ProxyConfig
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import CacheTransceiverConfig, KvCacheConfig, SchedulerConfig, ServerSection
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.plan import ModelFacts, Plan


def engine(plan: Plan, name: str) -> EngineSpec:
    spec = next(child.spec for child in plan.servers if child.name == name)
    assert isinstance(spec, EngineSpec)
    return spec


# --- which servers --------------------------------------------------------------------------------------------------


def test_the_servers_of_a_file_and_the_proxy() -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(num_instances=2), port=8123, max_retries=3))
    assert [(s.name, s.role, s.url) for s in plan.servers] == [
        ("context-0", "context", "127.0.0.1:0"),
        ("context-1", "context", "127.0.0.1:0"),
        ("generation-0", "generation", "127.0.0.1:0"),
    ]
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    assert (plan.proxy.url, plan.proxy.spec.max_retries) == ("127.0.0.1:8123", 3)
    assert plan.servers[0].argv == [sys.executable, "-m", "trtdisagg.engine"]
    assert plan.needs == {"tiny": ["context", "generation"]}
    assert plan.makes_secret


def test_urls_of_this_host_are_where_our_servers_listen() -> None:
    machine = host(local_names=frozenset({"10.0.0.5"}))
    plan = plan_of(
        cluster_file(
            context_servers=ServerSection(urls=["localhost:8001", "10.0.0.5:8002"], num_instances=2),
            generation_servers=ServerSection(urls=["[::1]:8003"]),
        ),
        machine,
    )
    assert [s.url for s in plan.servers] == ["127.0.0.1:8001", "10.0.0.5:8002", "[::1]:8003"]


def test_urls_of_other_hosts_are_routed_to_and_not_started() -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(urls=["node7:8001", "localhost:8002"], num_instances=2)))
    assert [s.name for s in plan.servers] == ["context-1", "generation-0"]
    assert [(u.name, u.url, u.model) for u in plan.upstream] == [("context-0", "node7:8001", "tiny")]
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    assert plan.proxy.spec.servers == plan.upstream
    assert not plan.makes_secret, "the others could not know it"


def test_a_file_without_a_model_starts_only_the_proxy() -> None:
    sections = {
        "context_servers": ServerSection(urls=["localhost:8001", "localhost:8002"], num_instances=2),
        "generation_servers": ServerSection(urls=["localhost:8003"]),
    }
    plan = plan_of(ClusterFile(**sections))
    assert plan.servers == []
    assert [(u.name, u.role, u.model, u.url) for u in plan.upstream] == [
        ("context-0", "context", None, "localhost:8001"),
        ("context-1", "context", None, "localhost:8002"),
        ("generation-0", "generation", None, "localhost:8003"),
    ]
    assert not plan.makes_secret


def test_one_url_in_both_sections_is_one_server_of_both_roles() -> None:
    section = ServerSection(urls=["localhost:8001"])
    plan = plan_of(cluster_file(context_servers=section, generation_servers=section))
    assert [(s.name, s.role, s.url) for s in plan.servers] == [("both-0", "both", "127.0.0.1:8001")]
    assert plan.needs == {"tiny": ["context", "generation"]}
    (notice,) = [notice for notice in plan.notices if "both-0" in notice]
    assert notice.startswith("both-0 computes prompts and generates, and long prompts hold answers up: separate sets")


def test_several_models_are_in_the_names() -> None:
    entries = [
        ModelEntry(name=name, model=name, context_servers=ServerSection(), generation_servers=ServerSection())
        for name in ("small", "large")
    ]
    plan = plan_of(ClusterFile(models=entries))
    assert [s.name for s in plan.servers] == [
        "small.context-0",
        "small.generation-0",
        "large.context-0",
        "large.generation-0",
    ]
    assert [s.model for s in plan.servers] == ["small", "small", "large", "large"]


def test_several_models_whose_servers_run_already_are_routed_to_by_their_names() -> None:
    entries = [
        ModelEntry(name=name, generation_servers=ServerSection(urls=[f"localhost:{port}"]))
        for name, port in (("small", 8001), ("large", 8002))
    ]
    plan = plan_of(ClusterFile(models=entries))
    assert plan.servers == []
    assert [(u.name, u.model) for u in plan.upstream] == [
        ("small.generation-0", "small"),
        ("large.generation-0", "large"),
    ]
    assert plan.needs == {"small": ["generation"], "large": ["generation"]}


def test_a_server_started_by_hand_has_no_proxy_no_secret_and_no_transport() -> None:
    file = ClusterFile(model="tiny", context_servers=ServerSection(urls=["localhost:8001"]))
    plan = plan_of(file, with_proxy=False, default_backend=None)
    assert [child.name for child in plan.children] == ["context-0"]
    assert engine(plan, "context-0").transfer.transports == []
    assert not plan.makes_secret


# --- where they run -------------------------------------------------------------------------------------------------


def test_without_gpus_servers_divide_the_cores() -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(num_instances=2)), host(num_cores=8))
    assert [s.cores for s in plan.servers] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert [engine(plan, s.name).num_threads for s in plan.servers] == [2, 3, 3]
    assert {s.env["CUDA_VISIBLE_DEVICES"] for s in plan.servers} == {""}
    assert engine(plan, "context-0").device == "cpu"


def test_more_servers_than_cores_share_them_with_a_warning() -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(num_instances=2)), host(num_cores=2))
    assert [s.cores for s in plan.servers] == [[0], [1], [0]]
    assert {engine(plan, s.name).num_threads for s in plan.servers} == {1}
    assert "context-0, generation-0 share CPU core 0: they slow each other down" in plan.notices


def test_with_gpus_each_server_has_one() -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(num_instances=2)), host(num_gpus=4))
    assert [s.gpus for s in plan.servers] == [["0"], ["1"], ["2"]]
    assert plan.servers[1].env["CUDA_VISIBLE_DEVICES"] == "1"
    assert plan.servers[1].env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert engine(plan, "context-0").device == "cuda"
    assert [s.cores for s in plan.servers] == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_sections_may_name_their_gpus_and_cores() -> None:
    plan = plan_of(
        cluster_file(
            context_servers=ServerSection(gpus=["GPU-3"]), generation_servers=ServerSection(gpus=[], cores=[5, 6])
        ),
        host(num_gpus=4),
    )
    assert [s.gpus for s in plan.servers] == [["3"], []]
    assert plan.servers[1].cores == [5, 6]
    assert engine(plan, "generation-0").num_threads == 2


def test_what_one_section_names_the_other_does_not_get() -> None:
    plan = plan_of(
        cluster_file(context_servers=ServerSection(gpus=[0, 1], num_instances=2)), host(num_gpus=3, num_cores=4)
    )
    assert [s.gpus for s in plan.servers] == [["0"], ["1"], ["2"]]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_pools_divide_the_free_memory() -> None:
    plan = plan_of(cluster_file(), host(memory_bytes=1 * GIB))
    share = int(0.9 * (GIB - 2 * TINY.weight_bytes("bfloat16")) / 2)
    block_bytes = TINY.kv_bytes_per_token("bfloat16") * 32
    assert engine(plan, "context-0").num_blocks == share // block_bytes
    assert plan.servers[0].pool_bytes == share // block_bytes * block_bytes


def test_a_pool_on_the_cpu_is_bounded_unless_the_file_bounds_it() -> None:
    assert plan_of(cluster_file(), host(memory_bytes=64 * GIB)).servers[0].pool_bytes == 2 * GIB
    wanted = ServerSection(kv_cache_config=KvCacheConfig(max_tokens=5000))
    plan = plan_of(cluster_file(context_servers=wanted), host(memory_bytes=64 * GIB))
    assert engine(plan, "context-0").num_blocks == -(-5000 // 32)


def test_a_pool_on_a_gpu_takes_its_share_of_that_gpu() -> None:
    section = ServerSection(gpus=[0])
    plan = plan_of(cluster_file(context_servers=section, generation_servers=section), host(num_gpus=1))
    share = int(0.9 * (80 * GIB - 2 * TINY.weight_bytes("bfloat16")) / 2)
    assert 0 <= share - (plan.servers[0].pool_bytes or 0) < TINY.kv_bytes_per_token("bfloat16") * 32
    assert "context-0, generation-0 share GPU 0: they slow each other down" in plan.notices


def test_too_little_memory_is_said_with_numbers() -> None:
    with pytest.raises(StartupError, match=r"context-0: too little memory on this host: .* max_seq_len 512 needs"):
        plan_of(cluster_file(), host(memory_bytes=500_000))


def test_max_tokens_bounds_the_longest_request_where_the_file_does_not() -> None:
    section = ServerSection(kv_cache_config=KvCacheConfig(max_tokens=100))
    plan = plan_of(cluster_file(context_servers=section))
    assert engine(plan, "context-0").max_seq_len == 100
    assert any("max_seq_len is 100" in notice for notice in plan.notices)
    assert engine(plan, "generation-0").max_seq_len == TINY.max_positions


def test_a_model_that_only_the_users_program_knows() -> None:
    section = ServerSection(command=["my-engine", "-v"])
    facts = {"tiny": ModelFacts(path="tiny", served_name="tiny", dimensions=None)}
    plan = plan_of(cluster_file(context_servers=section, generation_servers=section), models=facts)
    assert plan.servers[0].argv == ["my-engine", "-v"]
    assert (engine(plan, "context-0").num_blocks, engine(plan, "context-0").max_seq_len) == (1024, 2048)
    assert plan.servers[0].pool_bytes is None


def test_block_sizes_and_divisions_may_differ() -> None:
    other = ServerSection(kv_cache_config=KvCacheConfig(tokens_per_block=64), tensor_parallel_size=2)
    plan = plan_of(cluster_file(context_servers=other))
    assert (engine(plan, "context-0").tokens_per_block, engine(plan, "generation-0").tokens_per_block) == (64, 32)
    assert not any("separate sets" in notice for notice in plan.notices)


# --- several ranks --------------------------------------------------------------------------------------------------

_TWO_BY_TWO = ServerSection(tensor_parallel_size=2, pipeline_parallel_size=2)


def test_a_server_of_several_ranks() -> None:
    plan = plan_of(cluster_file(context_servers=_TWO_BY_TWO), host(num_cores=10))
    server, other = plan.servers
    assert engine(plan, "context-0").parallel == Parallel(tp_size=2, pp_partition=[1, 1], moe_tp_size=2)
    assert (server.num_ranks, other.num_ranks) == (4, 1)
    assert server.rank_cores == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert (server.cores, engine(plan, "context-0").cores) == (list(range(8)), [0, 1])
    assert engine(plan, "context-0").num_threads == 2
    assert server.env["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in other.env


def test_ranks_divide_a_memory_and_have_equally_many_blocks() -> None:
    both = {"context_servers": _TWO_BY_TWO, "generation_servers": ServerSection()}
    plan = plan_of(cluster_file(**both), host(memory_bytes=GIB))
    server, other = plan.servers
    weights = sum([*server.rank_weights, *other.rank_weights])
    share = int(0.9 * (GIB - weights) / 5)
    block_bytes = TINY.kv_bytes_per_token("bfloat16") * 32 // 4
    num_blocks = engine(plan, "context-0").num_blocks
    assert num_blocks == share // block_bytes
    assert server.rank_pools == [num_blocks * block_bytes] * 4
    assert server.pool_bytes == sum(server.rank_pools)
    assert 0 <= share - (other.pool_bytes or 0) < 4 * block_bytes
    assert any("(2.00 GiB" not in notice and "tokens in 4 ranks)" in notice for notice in plan.notices)


def test_all_ranks_of_a_server_on_the_cpu_are_bounded_together() -> None:
    plan = plan_of(cluster_file(context_servers=_TWO_BY_TWO), host(memory_bytes=64 * GIB))
    assert plan.servers[0].pool_bytes == plan.servers[1].pool_bytes == 2 * GIB


def test_the_gpu_with_the_least_memory_counts_for_all_ranks() -> None:
    gpus = [made_up_gpu(0), made_up_gpu(1, free_bytes=GIB)]
    file = ClusterFile(model="tiny", generation_servers=ServerSection(tensor_parallel_size=2))
    server = plan_of(file, host(gpus=gpus)).servers[0]
    assert server.gpus == ["0", "1"]
    assert server.rank_pools[0] == server.rank_pools[1] <= 0.9 * GIB
    gpus[1] = made_up_gpu(1, free_bytes=0)
    with pytest.raises(StartupError, match="generation-0 rank 1: too little memory on GPU 1"):
        plan_of(file, host(gpus=gpus))


def test_the_largest_stage_counts_for_all() -> None:
    uneven = ServerSection(pipeline_parallel_size=2, pp_partition=[1, 2])
    facts = {"tiny": ModelFacts(path="tiny", served_name="tiny", dimensions=replace(TINY, num_layers=3))}
    file = ClusterFile(model="tiny", generation_servers=uneven)
    server = plan_of(file, host(num_gpus=2), models=facts).servers[0]
    assert server.rank_pools[1] == 2 * server.rank_pools[0] <= 0.9 * 80 * GIB


def test_with_attention_data_parallelism_each_rank_has_kv_of_its_own() -> None:
    section = ServerSection(tensor_parallel_size=2, enable_attention_dp=True)
    section = replace(section, kv_cache_config=KvCacheConfig(max_tokens=1024))
    plan = plan_of(cluster_file(context_servers=section))
    assert engine(plan, "context-0").parallel.attention_dp
    assert plan.servers[0].rank_pools == [1024 * TINY.kv_bytes_per_token("bfloat16")] * 2


# --- how they hand over ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "num_gpus", "transports"),
    [
        (None, 0, ["local", "nixl"]),
        ("DEFAULT", 0, ["local", "nixl"]),
        ("DEFAULT", 2, ["nixl"]),
        ("NIXL", 0, ["nixl"]),
        ("LOCAL", 0, ["local"]),
    ],
)
def test_transports(backend: Any, num_gpus: int, transports: list[str]) -> None:
    section = ServerSection(cache_transceiver_config=CacheTransceiverConfig(backend=backend))
    plan = plan_of(cluster_file(context_servers=section, generation_servers=section), host(num_gpus=num_gpus))
    assert engine(plan, "context-0").transfer.transports == transports


def test_the_generation_leg_may_be_larger_than_what_the_client_sent() -> None:
    plan = plan_of(cluster_file(proxy=ProxyConfig(max_body_bytes=1000)))
    assert engine(plan, "generation-0").max_body_bytes > 1000 + len("1234567,") * 500


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (ServerSection(), "scheduler_policy", "max_utilization"),
        (
            ServerSection(scheduler_config=SchedulerConfig(capacity_scheduler_policy="GUARANTEED_NO_EVICT")),
            "scheduler_policy",
            "guaranteed_no_evict",
        ),
        (ServerSection(enable_chunked_prefill=False), "enable_chunked_prefill", False),
        (ServerSection(quantization="int8"), "quantization", "int8"),
        (ServerSection(stream_interval=3), "stream_interval", 3),
        (ServerSection(disable_overlap_scheduler=True), "disable_overlap_scheduler", True),
        (ServerSection(kv_cache_config=KvCacheConfig(enable_block_reuse=False)), "enable_block_reuse", False),
        (ServerSection(kv_cache_config=KvCacheConfig(enable_partial_reuse=False)), "enable_partial_reuse", False),
        (ServerSection(kv_cache_config=KvCacheConfig(event_buffer_max_size=9)), "event_buffer_max_size", 9),
    ],
)
def test_what_a_section_says_of_the_engine_is_in_its_spec(section: ServerSection, field: str, value: Any) -> None:
    assert getattr(engine(plan_of(cluster_file(context_servers=section)), "context-0"), field) == value


@pytest.mark.parametrize(
    ("keys", "num_kept"),
    [
        ({}, 0),
        ({"return_perf_metrics": True}, 1000),
        ({"perf_metrics_max_requests": 7}, 7),
        ({"return_perf_metrics": True, "perf_metrics_max_requests": 7}, 7),
    ],
)
def test_requests_whose_times_are_kept(keys: dict[str, Any], num_kept: int) -> None:
    plan = plan_of(cluster_file(context_servers=ServerSection(**keys)))
    assert engine(plan, "context-0").perf_metrics_max_requests == num_kept


def test_servers_keep_as_many_as_the_proxy_unless_they_say_otherwise() -> None:
    section = ServerSection(perf_metrics_max_requests=7)
    plan = plan_of(cluster_file(perf_metrics_max_requests=50, context_servers=section))
    assert engine(plan, "context-0").perf_metrics_max_requests == 7
    assert engine(plan, "generation-0").perf_metrics_max_requests == 50
    assert isinstance(plan.children[0].spec, ProxySpec)
    assert plan.children[0].spec.perf_metrics_max_requests == 50


# --- what is refused ------------------------------------------------------------------------------------------------

_LOCAL = CacheTransceiverConfig(backend="LOCAL")
_NIXL = CacheTransceiverConfig(backend="NIXL")
_SAME_URL = ServerSection(urls=["localhost:8001"])

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "heads": (
        {"context_servers": ServerSection(tensor_parallel_size=3)},
        "context_servers: the model cannot be divided like this: 4 attention heads cannot be divided by "
        "tensor_parallel_size 3; of 2 KV heads and tensor_parallel_size 3 neither divides the other; an MLP 128 wide",
    ),
    "layers": (
        {"generation_servers": ServerSection(pipeline_parallel_size=3)},
        "generation_servers: the model cannot be divided like this: its 2 layers are fewer than pipeline_parallel_size",
    ),
    "partition": (
        {"generation_servers": ServerSection(pipeline_parallel_size=2, pp_partition=[2, 1])},
        "generation_servers: the model cannot be divided like this: pp_partition [2, 1] does not divide 2 layers",
    ),
    "no experts": (
        {"context_servers": ServerSection(tensor_parallel_size=2, moe_expert_parallel_size=2)},
        "context_servers: the model cannot be divided like this: moe_expert_parallel_size 2: it has no experts",
    ),
    "no transport in common": (
        {
            "context_servers": ServerSection(cache_transceiver_config=_LOCAL),
            "generation_servers": ServerSection(cache_transceiver_config=_NIXL),
        },
        "context-0 and generation-0 have no transfer backend in common",
    ),
    "kv dtype": (
        {"context_servers": ServerSection(kv_cache_config=KvCacheConfig(dtype="float32"))},
        "context_servers.kv_cache_config.dtype",
    ),
    "dtypes differ": (
        {"context_servers": ServerSection(dtype="float32")},
        "generation_servers.dtype: differs from context_servers.dtype",
    ),
    "no such core": ({"context_servers": ServerSection(cores=[99])}, "context_servers.cores: there is no CPU core 99"),
    "no cores": ({"context_servers": ServerSection(cores=[])}, "context_servers.cores: names none"),
    "no such gpu": ({"context_servers": ServerSection(gpus=[1])}, "context_servers.gpus: there is no GPU 1 here"),
    "pin by environment": (
        {"context_servers": ServerSection(env={"CUDA_VISIBLE_DEVICES": "1"})},
        "context_servers.env.CUDA_VISIBLE_DEVICES",
    ),
    "longer than trained": (
        {"context_servers": ServerSection(max_seq_len=600)},
        "max_seq_len 600 is more than the 512",
    ),
    "longer than the pool": (
        {"context_servers": ServerSection(max_seq_len=200, kv_cache_config=KvCacheConfig(max_tokens=100))},
        "max_seq_len 200 does not fit into kv_cache_config.max_tokens 100",
    ),
    "nobody generates": ({"generation_servers": ServerSection(num_instances=0)}, "generation_servers: none"),
    "one address for two": (
        {"port": 8001, "context_servers": ServerSection(urls=["localhost:8001"])},
        "have one address, 127.0.0.1:8001",
    ),
    "both, but different": (
        {"context_servers": _SAME_URL, "generation_servers": ServerSection(urls=["localhost:8001"], max_batch_size=1)},
        "generation_servers: localhost:8001 stands in both sections",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    keys, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        plan_of(cluster_file(**keys))
    assert message in caught.value.message


def test_a_server_by_hand_is_started_here() -> None:
    file = ClusterFile(model="tiny", context_servers=ServerSection(urls=["node7:8001"]))
    with pytest.raises(ConfigError, match="node7 is no address of this machine"):
        plan_of(file, with_proxy=False)


def test_a_server_that_others_can_reach_needs_a_secret() -> None:
    machine = host(local_names=frozenset({"10.0.0.5"}))
    file = ClusterFile(model="tiny", context_servers=ServerSection(urls=["10.0.0.5:8001"]))
    with pytest.raises(ConfigError, match="name a `secret_file`"):
        plan_of(file, machine, with_proxy=False)
    with_secret = ClusterFile(model="tiny", context_servers=file.context_servers, secret_file="/etc/secret")
    assert plan_of(with_secret, machine, with_proxy=False).secret_file == "/etc/secret"


def test_processes_of_a_proxy_share_its_address_and_divide_its_queue() -> None:
    plan = plan_of(cluster_file(proxy=ProxyConfig(num_workers=3, max_queue_size=10)))
    specs = [child.spec for child in plan.proxies if isinstance(child.spec, ProxySpec)]
    assert [child.name for child in plan.proxies] == ["proxy-0", "proxy-1", "proxy-2"]
    assert [(s.worker, s.num_workers, s.max_queue_size, s.port) for s in specs] == [(i, 3, 4, 8000) for i in range(3)]
    assert [child.name for child in plan.children][:3] == ["proxy-0", "proxy-1", "proxy-2"]
