"""What the proxy is told of each model."""

from __future__ import annotations

from helpers.plans import cluster_file, plan_of

from trtdisagg.config.proxy_keys import ConditionalDisaggConfig, ProxyConfig
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import RouterConfig, ServerSection
from trtdisagg.protocol.proxy_spec import ANY_MODEL, ModelSpec, ProxySpec, RouterSpec


def proxy_of(file: ClusterFile) -> ProxySpec:
    proxy = plan_of(file).proxy
    assert proxy is not None
    assert isinstance(proxy.spec, ProxySpec)
    return proxy.spec


def test_each_role_gets_its_router() -> None:
    file = cluster_file(
        context_servers=ServerSection(router=RouterConfig(type="kv_cache_aware"), max_batch_size=16),
        generation_servers=ServerSection(router=RouterConfig(type="load_balancing", use_tokens=True, max_batch_size=8)),
        conditional_disagg_config=ConditionalDisaggConfig(max_local_prefill_length=100),
    )
    assert proxy_of(file).models == {
        "tiny": ModelSpec(
            context_router=RouterSpec(type="kv_cache_aware", max_batch_size=16),
            generation_router=RouterSpec(type="load_balancing", use_tokens=True, max_batch_size=8),
            max_local_prefill_length=100,
            model_path="/models/tiny",
        )
    }


def test_a_length_of_0_asks_for_nothing() -> None:
    assert proxy_of(cluster_file()).models["tiny"].max_local_prefill_length is None


def test_each_model_is_known_by_what_clients_call_it() -> None:
    section = ServerSection(router=RouterConfig(type="session"))
    file = ClusterFile(
        models=[
            ModelEntry(name="a", model="tiny", generation_servers=section),
            ModelEntry(name="b", model="tiny", served_model_name="org/b", generation_servers=ServerSection()),
        ]
    )
    models = proxy_of(file).models
    assert {name: spec.generation_router.type for name, spec in models.items()} == {
        "a": "session",
        "org/b": "round_robin",
    }
    assert proxy_of(cluster_file(served_model_name="mine")).models.keys() == {"mine"}


def test_servers_that_run_already_say_their_model_themselves() -> None:
    section = ServerSection(urls=["far:1"], router=RouterConfig(type="load_balancing"))
    file = ClusterFile(generation_servers=section)
    assert proxy_of(file).models == {
        ANY_MODEL: ModelSpec(generation_router=RouterSpec(type="load_balancing", max_batch_size=64))
    }


def test_limits_of_the_queue_reach_the_proxy() -> None:
    spec = proxy_of(cluster_file(proxy=ProxyConfig(max_in_flight=9, max_queue_size=5, kv_overcommit=1.5)))
    assert (spec.max_in_flight, spec.max_queue_size, spec.kv_overcommit) == (9, 5, 1.5)
