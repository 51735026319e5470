"""The plan of one child: a server's spec and environment; the proxy's spec. Pure.

What only a run knows (incarnation, secret, parent, pipes) is left open in a spec and filled in at the start.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from trtdisagg.config.key_types import Backend
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import RouterConfig, ServerSection
from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.errors import ConfigError
from trtdisagg.net import join_address
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import (
    BreakerSpec,
    Dtype,
    EngineSpec,
    ModelSpec,
    ProxySpec,
    RegistrySpec,
    Role,
    SamplingDefaults,
    SchedulerPolicy,
    TlsSpec,
    UpstreamServer,
)
from trtdisagg.supervisor.claims import Memory, Spot, memories
from trtdisagg.supervisor.memory import Pool
from trtdisagg.supervisor.profiling import Profile
from trtdisagg.supervisor.slots import LOOPBACK, Slot, section_settings
from trtdisagg.supervisor.state import PROXY
from trtdisagg.supervisor.transfer_plan import transfer_spec

_PINS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_POLICIES: dict[str, SchedulerPolicy] = {
    "MAX_UTILIZATION": "max_utilization",
    "GUARANTEED_NO_EVICT": "guaranteed_no_evict",
}
AMONG_RANKS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""For servers whose ranks are all on one host: they meet where nobody else can listen."""
_PERF_REQUESTS = 1000
"""Whose times are kept where it is not said how many."""
_TOKEN_ID_BYTES = 8
"""A token id in JSON, with its comma."""


class ChildPlan(msgspec.Struct, kw_only=True, frozen=True):
    """One child to start and keep: a server, which is a process for each of its ranks, or the proxy."""

    name: str
    role: Literal[Role, "proxy"]
    spec: EngineSpec | ProxySpec
    """Of a server, that of rank 0; see `rank_plan`."""
    argv: list[str]
    """Without `--spec FILE`, which is added at the start."""
    env: dict[str, str] = {}
    """Added to the environment."""
    gpus: list[str] = []
    """One for each rank, in order; empty: it runs on the CPU."""
    cores: list[int] = []
    """Those of all ranks; empty: not pinned."""
    rank_cores: list[list[int]] = []
    pool_bytes: int | None = None
    """KV cache of all ranks; None: not known, or none."""
    rank_pools: list[int] = []
    """The same of each rank."""
    rank_weights: list[int] = []
    """Bytes of the weights of each rank; 0: not known."""
    profile: Profile | None = None
    """Around the commands of some of its ranks; None: it is not profiled."""
    nodes: list[str] = []
    """The node of each rank, in order; empty: all are on this host."""
    settings: str = ""
    """A digest of what the cluster file says about this child, and of where it runs: with equal ones there is no reason
    to start it again. The role is not in it, since a running server can change that."""

    @property
    def num_ranks(self) -> int:
        return self.spec.parallel.num_ranks if isinstance(self.spec, EngineSpec) else 1

    @property
    def spans_nodes(self) -> bool:
        return len(set(self.nodes)) > 1

    @property
    def memories(self) -> list[Memory]:
        """That of each rank."""
        return memories(self.num_ranks, self.nodes, self.gpus)

    @property
    def gpu_places(self) -> set[Memory]:
        """The GPUs of its ranks, and on which node."""
        return {memory for memory in self.memories if memory[1] is not None}

    @property
    def rank_bytes(self) -> list[int]:
        """Weights and KV cache of each rank, where they are known."""
        pools = self.rank_pools or [0] * len(self.rank_weights)
        return [sum(both) for both in zip(self.rank_weights, pools, strict=True)]

    @property
    def model(self) -> str | None:
        return self.spec.model if isinstance(self.spec, EngineSpec) else None

    @property
    def url(self) -> str:
        """host:port; with port 0 the real one comes with the report that it is ready."""
        return join_address(self.spec.host, self.spec.port)


class ServerFacts(msgspec.Struct, kw_only=True, frozen=True):
    """What the servers of a plan have in common, or get from elsewhere than their section."""

    cluster: str
    model: str
    """The name clients use."""
    model_path: str
    sampling_defaults: SamplingDefaults
    backend: Backend | None
    """Of the transfer; None: no disaggregated serving."""
    max_body_bytes: int
    """Of a client's request."""
    perf_metrics_max_requests: int
    """Of the proxy."""
    secret_file: str | None
    profile: Profile | None


def plan_server(
    slot: Slot,
    facts: ServerFacts,
    spot: Spot,
    pool: Pool,
    *,
    parallel: Parallel,
    weights: Sequence[int],
    host: str,
) -> ChildPlan:
    """
    :param weights: bytes of those of each rank.
    :param host: where it listens.
    :raises ConfigError: when the section asks for what is not there.
    """
    section = slot.section
    return ChildPlan(
        name=slot.name,
        role=slot.role,
        spec=EngineSpec(
            cluster=facts.cluster,
            name=slot.name,
            role=slot.role,
            incarnation="",
            model=facts.model,
            model_path=facts.model_path,
            sampling_defaults=facts.sampling_defaults,
            device="cuda" if spot.gpus else "cpu",
            dtype=dtype_of(section, slot.path),
            host=host,
            port=slot.port,
            cores=spot.rank_cores[0] or None,
            num_threads=spot.num_threads,
            max_batch_size=section.max_batch_size,
            max_num_tokens=section.max_num_tokens,
            max_seq_len=pool.max_seq_len,
            max_queue_size=section.max_queue_size,
            # The generation leg is the client's request with the prompt's token ids added.
            max_body_bytes=facts.max_body_bytes + _TOKEN_ID_BYTES * pool.max_seq_len,
            tokens_per_block=section.kv_cache_config.tokens_per_block,
            num_blocks=pool.num_blocks,
            scheduler_policy=_POLICIES[section.scheduler_config.capacity_scheduler_policy],
            enable_chunked_prefill=section.enable_chunked_prefill,
            enable_block_reuse=section.kv_cache_config.enable_block_reuse,
            enable_partial_reuse=section.kv_cache_config.enable_partial_reuse,
            event_buffer_max_size=section.kv_cache_config.event_buffer_max_size,
            perf_metrics_max_requests=section.perf_metrics_max_requests
            or (_PERF_REQUESTS if section.return_perf_metrics else facts.perf_metrics_max_requests),
            quantization=section.quantization,
            disable_overlap_scheduler=section.disable_overlap_scheduler,
            stream_interval=section.stream_interval,
            transfer=transfer_spec(section.cache_transceiver_config, facts.backend, slot.path, on_gpu=bool(spot.gpus)),
            parallel=parallel,
        ),
        argv=section.command or [sys.executable, "-m", "trtdisagg.engine"],
        profile=facts.profile,
        env=_env(slot, spot),
        gpus=spot.gpus,
        cores=spot.cores,
        rank_cores=spot.rank_cores,
        pool_bytes=pool.num_bytes,
        rank_pools=pool.rank_bytes or [],
        rank_weights=list(weights),
        nodes=spot.nodes,
        settings=server_settings(slot, facts, spot),
    )


def server_settings(slot: Slot, facts: ServerFacts, spot: Spot) -> str:
    """See `ChildPlan.settings`.

    What the machine or the model's files say is left out: they change while servers run, and the file has not.
    """
    section = replace(section_settings(slot.section), gpus=None, cores=None, router=RouterConfig())
    common = replace(facts, cluster="", sampling_defaults=SamplingDefaults())
    nodes = [spot.nodes] if spot.nodes else []
    return _digest(section, common, slot.host, slot.port, spot.gpus, spot.rank_cores, *nodes)


def in_role(child: ChildPlan, role: Literal[Role, "proxy"]) -> ChildPlan:
    """The plan of a server that has another role now, and is otherwise as it was."""
    if child.role == role:
        return child
    assert isinstance(child.spec, EngineSpec)
    assert role != "proxy"
    return replace(child, role=role, spec=replace(child.spec, role=role))


def plan_proxy(
    cluster: ClusterFile,
    name: str,
    servers: Sequence[UpstreamServer],
    registry: RegistrySpec | None,
    models: Mapping[str, ModelSpec],
) -> ChildPlan:
    """
    :param servers: those that are not ours to start.
    :param models: see `routing_plan`.
    """
    config = cluster.proxy
    spec = ProxySpec(
        cluster=name,
        host=bind_host(cluster.hostname),
        port=cluster.port,
        servers=list(servers),
        registry=registry,
        max_retries=cluster.max_retries,
        perf_metrics_max_requests=cluster.perf_metrics_max_requests,
        access_log=None if config.access_log == "off" else config.access_log,
        otlp_traces_endpoint=cluster.otlp_config.otlp_traces_endpoint,
        max_body_bytes=config.max_body_bytes,
        max_in_flight=config.max_in_flight,
        max_queue_size=config.max_queue_size,
        kv_overcommit=config.kv_overcommit,
        max_connections=config.max_connections,
        api_keys_file=config.api_keys_file,
        tls=TlsSpec(cert_file=config.tls.cert_file, key_file=config.tls.key_file) if config.tls else None,
        cors_allow_origins=config.cors_allow_origins,
        first_token_timeout_s=config.first_token_timeout_s,
        idle_timeout_s=config.idle_timeout_s,
        models=dict(models),
        num_workers=config.num_workers,
        max_migrations=config.max_migrations,
        retry_share=config.retry_share,
        num_text_workers=cluster.processing.num_workers,
        breaker=BreakerSpec(**msgspec.structs.asdict(config.breaker)),
    )
    return ChildPlan(
        name=PROXY,
        role="proxy",
        spec=spec,
        argv=[sys.executable, "-m", "trtdisagg", "proxy"],
        settings=_digest(spec, cluster.secret_file),
    )


def proxy_workers(proxy: ChildPlan) -> list[ChildPlan]:
    """The processes that a proxy is made of: itself, or several that accept clients at one address and divide the queue
    among them."""
    assert isinstance(proxy.spec, ProxySpec)
    number = proxy.spec.num_workers
    if number == 1:
        return [proxy]
    spec = replace(proxy.spec, max_queue_size=-(-proxy.spec.max_queue_size // number))
    return [replace(proxy, name=f"{PROXY}-{i}", spec=replace(spec, worker=i)) for i in range(number)]


def registry_of(config: DisaggCluster) -> RegistrySpec | None:
    """Where servers of other agents are registered; None: nowhere."""
    if config.cluster_uri is None:
        return None
    return RegistrySpec(
        uri=config.cluster_uri,
        cluster_name=config.cluster_name,
        minimal_instances={
            "context": config.minimal_instances.context_servers,
            "generation": config.minimal_instances.generation_servers,
        },
        heartbeat_s=config.heartbeat_interval_sec,
        inactive_s=config.inactive_timeout_sec,
        user=config.user,
        password_file=config.password_file,
        ca_file=config.ca_file,
        cert_file=config.cert_file,
        key_file=config.key_file,
    )


def _digest(*values: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(values, order="sorted"), digest_size=8).hexdigest()


def bind_host(host: str) -> str:
    """`localhost` may mean two addresses, on which a free port need not be the same."""
    return LOOPBACK if host == "localhost" else host


def dtype_of(section: ServerSection, path: str) -> Dtype:
    """The compute type of a server.

    :raises ConfigError: when the KV cache is to have another one.
    """
    dtype: Dtype = "bfloat16" if section.dtype == "auto" else section.dtype
    if section.kv_cache_config.dtype not in ("auto", dtype):
        raise ConfigError(
            f"{path}.kv_cache_config.dtype: a KV cache of another type than the weights' ({dtype}) is not there yet"
        )
    return dtype


def _env(slot: Slot, spot: Spot) -> dict[str, str]:
    """The pin to GPUs, and the number of threads for libraries that read it when they are loaded.

    On the CPU no GPU is visible, so that nothing is left on one by accident.
    """
    for name in _PINS:
        if name in slot.section.env:
            raise ConfigError(f"{slot.path}.env.{name}: is set from `gpus`; say there which ones")
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(spot.gpus),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": str(spot.num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # else threads spin between two products, on cores that others share
        **(AMONG_RANKS if len(spot.rank_cores) > 1 >= len(set(spot.nodes)) else {}),
        **({"TRTLLM_ENABLE_PDL": "1"} if slot.section.enable_pdl else {}),
        **slot.section.env,
    }
