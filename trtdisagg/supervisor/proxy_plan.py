"""The plan of the proxy: its spec, and the processes it is made of. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.protocol.proxy_spec import BreakerSpec, ModelSpec, ProxySpec, RegistrySpec, TlsSpec, UpstreamServer
from trtdisagg.supervisor.child_plan import ChildPlan, digest
from trtdisagg.supervisor.slots import bind_host
from trtdisagg.supervisor.state import PROXY


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
        settings=digest(spec, cluster.secret_file),
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
