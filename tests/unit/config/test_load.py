"""Cluster files: what they may say, and what is said about those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtdisagg.config.load import Loaded, load
from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.errors import ConfigError

Load = Callable[..., Loaded]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as `c.yaml`."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str, **options: bool) -> Loaded:
        Path("c.yaml").write_text(text)
        return load("c.yaml", **options)

    return load_it


# --- what a file means ----------------------------------------------------------------------------------------------


def test_a_model_alone_is_one_server_of_each_role(load_text: Load) -> None:
    cluster = load_text("model: m").cluster
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    assert (cluster.context_servers.num_instances, cluster.generation_servers.num_instances) == (1, 1)


def test_a_section_that_is_not_there_has_no_servers(load_text: Load) -> None:
    assert load_text("model: m\ngeneration_servers:\n").cluster.context_servers is None


def test_both_sections_inherit_and_may_repeat(load_text: Load) -> None:
    text = "model: m\nmax_batch_size: 3\ncontext_servers: {max_batch_size: 3}\ngeneration_servers: {max_num_tokens: 9}"
    cluster = load_text(text).cluster
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    assert (cluster.context_servers.max_batch_size, cluster.generation_servers.max_batch_size) == (3, 3)
    assert cluster.generation_servers.max_num_tokens == 9


def test_the_number_of_urls_is_the_number_of_servers(load_text: Load) -> None:
    section = load_text("context_servers: {urls: ['a:1', 'b:2']}").cluster.context_servers
    assert section is not None
    assert section.num_instances == 2


def test_the_flat_fraction_belongs_to_the_kv_cache(load_text: Load) -> None:
    text = "model: m\nfree_gpu_memory_fraction: 0.5\ngeneration_servers: {kv_cache_config: {max_tokens: 9}}"
    section = load_text(text).cluster.generation_servers
    assert section is not None
    assert section.kv_cache_config.free_gpu_memory_fraction == 0.5
    assert section.kv_cache_config.max_tokens == 9


def test_the_flat_fraction_is_named_as_it_is_written(load_text: Load) -> None:
    loaded = load_text("free_gpu_memory_fraction: 0.5\ngeneration_servers: {urls: ['a:1']}")
    assert [notice.key for notice in loaded.no_effect] == ["generation_servers.free_gpu_memory_fraction"]


def test_environment_of_servers_in_both_spellings(load_text: Load) -> None:
    text = "model: m\ncontext_servers: {env_overrides: {A: '1'}}\ngeneration_servers: {env: {B: '2'}}"
    cluster = load_text(text).cluster
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    assert (cluster.context_servers.env, cluster.generation_servers.env) == ({"A": "1"}, {"B": "2"})


def test_null_in_a_section_is_the_default(load_text: Load) -> None:
    text = "model: m\nmax_batch_size: null\ncache_transceiver_config: {kv_transfer_timeout_ms: null, backend: null}\n"
    section = load_text(text).cluster.generation_servers
    assert section is not None
    assert section.max_batch_size == ServerSection().max_batch_size
    assert section.cache_transceiver_config == CacheTransceiverConfig()


def test_several_models_each_inherit_what_stands_at_the_top(load_text: Load) -> None:
    text = """
dtype: float32
models:
- {name: a, model: m, generation_servers: {num_instances: 2, cache_transceiver_config: {buffer_size: 1MB}}}
- {name: b, served_model_name: org/b, model: m2}
"""
    loaded = load_text(text)
    a, b = loaded.cluster.models
    assert loaded.cluster.model is None
    assert (a.served_name, b.served_name) == ("a", "org/b")
    assert a.context_servers is None
    assert a.generation_servers is not None
    assert (a.generation_servers.num_instances, a.generation_servers.dtype) == (2, "float32")
    assert b.context_servers is not None
    assert b.context_servers.dtype == "float32"
    where = loaded.origins["models[0].generation_servers.cache_transceiver_config.buffer_size"]
    assert where.line == 4


def test_several_models_whose_servers_run_already(load_text: Load) -> None:
    text = "models:\n- {name: a, generation_servers: {urls: ['h:1']}}\n- {name: b, generation_servers: {urls: ['h:2']}}"
    models = load_text(text).cluster.models
    assert [(e.name, e.model, e.generation_servers and e.generation_servers.urls) for e in models] == [
        ("a", None, ["h:1"]),
        ("b", None, ["h:2"]),
    ]


def test_one_entry_of_models_is_the_flat_form(load_text: Load) -> None:
    text = "dtype: float32\nmodels: [{name: a, model: m, generation_servers: {num_instances: 2}}]"
    cluster = load_text(text).cluster
    assert (cluster.model, cluster.served_model_name, cluster.models) == ("m", "a", [])
    assert cluster.generation_servers is not None
    assert (cluster.generation_servers.num_instances, cluster.generation_servers.dtype) == (2, "float32")
    assert cluster.context_servers is None


@pytest.mark.parametrize(
    ("directory", "text", "name"),
    [
        ("prod", "", "prod"),
        ("my cluster (2)", "", "my-cluster-2"),
        ("prod", "name: other", "other"),
        ("...", "", "cluster"),
    ],
)
def test_name(tmp_path: Path, directory: str, text: str, name: str) -> None:
    file = tmp_path / directory / "cluster.yaml"
    file.parent.mkdir()
    file.write_text(f"model: m\n{text}")
    loaded = load(file)
    assert loaded.name == name
    assert loaded.path == file


# --- TensorRT-LLM's files -------------------------------------------------------------------------------------------

UPSTREAM_FILES = Path(__file__).parent / "upstream_files"


def test_upstream_url_only() -> None:
    loaded = load(UPSTREAM_FILES / "url_only.yaml")
    cluster = loaded.cluster
    assert cluster.model is None
    assert (cluster.hostname, cluster.port) == ("localhost", 8000)
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    assert cluster.context_servers.urls == ["localhost:8001", "localhost:8002"]
    assert cluster.generation_servers.urls == ["localhost:8003"]


def test_upstream_with_model_and_urls() -> None:
    loaded = load(UPSTREAM_FILES / "model_and_urls.yaml")
    context, generation = loaded.cluster.context_servers, loaded.cluster.generation_servers
    assert context is not None
    assert generation is not None
    assert loaded.cluster.model == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert context.cache_transceiver_config.backend == "DEFAULT"
    assert context.kv_cache_config.free_gpu_memory_fraction == 0.2
    assert generation.kv_cache_config.free_gpu_memory_fraction == 0.25
    assert [(n.place.line, n.key) for n in loaded.no_effect] == [
        (4, "context_servers.free_gpu_memory_fraction"),
    ]
    assert context.disable_overlap_scheduler
    assert generation.disable_overlap_scheduler


def test_upstream_worker_file(load_text: Load) -> None:
    worker = UPSTREAM_FILES / "worker.yaml"
    text = f"model: m\ngeneration_servers:\n  extra_llm_api_options: {worker}\n  kv_cache_config: {{max_tokens: 64}}\n"
    loaded = load_text(text)
    section = loaded.cluster.generation_servers
    assert section is not None
    assert section.max_batch_size == 16
    assert section.kv_cache_config.max_tokens == 64
    assert section.kv_cache_config.free_gpu_memory_fraction == 0.75
    assert not section.kv_cache_config.enable_block_reuse
    assert section.cache_transceiver_config == CacheTransceiverConfig(backend="DEFAULT", max_tokens_in_buffer=2048)
    assert {n.key.rpartition(".")[2] for n in loaded.no_effect} == {
        "cuda_graph_config",
        "print_iter_log",
        "kv_transfer_poll_interval_ms",
    }
    assert all(n.place.file == str(worker) for n in loaded.no_effect)


def test_a_worker_file_is_relative_to_the_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "worker.yaml").write_text("max_batch_size: 5")
    (tmp_path / "cluster.yaml").write_text("model: m\nextra_llm_api_options: worker.yaml\n")
    section = load(tmp_path / "cluster.yaml").cluster.generation_servers
    assert section is not None
    assert section.max_batch_size == 5


def test_an_inherited_key_without_effect_is_named_once(load_text: Load) -> None:
    text = "model: m\nprint_iter_log: true\ncontext_servers: {moe_backend: x}\ngeneration_servers:\n"
    notices = [str(notice) for notice in load_text(text).no_effect]
    assert len(notices) == 2
    assert any(n.startswith("c.yaml:2: print_iter_log: no effect here, because counters go to") for n in notices)
    assert any(n.startswith("c.yaml:3: context_servers.moe_backend: no effect here, because") for n in notices)


@pytest.mark.parametrize(
    "text",
    [
        "enable_attention_dp: false",
        "tensor_parallel_size: 1",
        "moe_expert_parallel_size: null",
        "max_beam_width: 1",
        "speculative_config: null",
        "backend: pytorch",
        "conditional_disagg_config: {max_local_prefill_length: 0}",
        "disagg_cluster: null",
        "kv_cache_config:",
    ],
)
def test_values_that_ask_for_nothing_are_accepted(load_text: Load, text: str) -> None:
    assert load_text(f"model: m\n{text}").no_effect == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("context_parallel_size: 2", "context_parallel_size: 2: context parallelism: not there yet"),
        ("moe_cluster_parallel_size: 4", "experts divided among clusters"),
        ("speculative_config: {decoding_type: MTP}", "speculative decoding: not there yet"),
        ("max_beam_width: 4", "beam search"),
        ("backend: tensorrt", "an engine other than the builtin one"),
        ("engine: vllm", "this engine: not there yet"),
        ("cache_transceiver_config: {backend: mooncake}", "'mooncake': this transfer backend: not there yet"),
        ("cache_transceiver_config: {enable_cache_transceiver: false}", "servers without a handover"),
        ("kv_cache_config: {dtype: fp8}", "a KV cache of this type"),
        ("kv_cache_config: {max_attention_window: [512]}", "windows of attention other than the model's own"),
    ],
)
def test_what_would_change_results_is_refused(load_text: Load, text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text if text.startswith("models") else f"model: m\n{text}")
    assert what in caught.value.message


# --- servers that run already ---------------------------------------------------------------------------------------

ROUTED = """\
model: m
tensor_parallel_size: 4
dtype: float16
context_servers: {urls: ["a:1"], extra_llm_api_options: not_here.yaml}
generation_servers: {urls: ["b:2"]}
"""


def test_what_running_servers_were_started_with_is_not_our_business(load_text: Load) -> None:
    for text, options in [(ROUTED, {"only_routes": True}), (ROUTED.removeprefix("model: m\n"), {})]:
        loaded = load_text(text, **options)
        assert loaded.cluster.model is None
        assert loaded.cluster.context_servers is not None
        assert loaded.cluster.context_servers.urls == ["a:1"]
        because = "the servers of this file run already and are only routed to"
        assert {(n.key, n.because) for n in loaded.no_effect} == {
            ("tensor_parallel_size", because),
            ("dtype", because),
            ("context_servers.extra_llm_api_options", because),
        }


def test_who_only_routes_needs_urls(load_text: Load) -> None:
    with pytest.raises(ConfigError, match=r"context_servers: no `urls` of servers that run already$"):
        load_text("model: m", only_routes=True)


def test_but_their_keys_must_be_known(load_text: Load) -> None:
    with pytest.raises(ConfigError, match="tensor_paralel_size: unknown key; did you mean tensor_parallel_size"):
        load_text("context_servers: {urls: ['a:1'], tensor_paralel_size: 2}")


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("naem: x", "c.yaml:2: naem: unknown key; did you mean name?"),
        ("xyzzy: x", "c.yaml:2: xyzzy: unknown key"),
        ("context_servers:\n  num_instnces: 2", "c.yaml:3: context_servers.num_instnces: unknown key; did you mean"),
        ("disable_overlap_schedular: 1", "c.yaml:2: disable_overlap_schedular: unknown key; did you mean disable_"),
        ("tokens_per_block: 8", "c.yaml:2: tokens_per_block: unknown key here; it belongs in kv_cache_config"),
        ("urls: ['a:1']", "c.yaml:2: urls: unknown key here; it belongs in context_servers or generation_servers"),
        ("port: 8o00", "c.yaml:2: port: expected int, got str '8o00'"),
        ("port: 70000", "c.yaml:2: port: expected int <= 65535, got int 70000"),
        ("port: true", "c.yaml:2: port: expected int, got bool True"),
        ("port: null", "c.yaml:2: port: expected int, got null"),
        ("hostname: 10", "c.yaml:2: hostname: expected str, got int 10; put it in quotes"),
        ("context_servers: 3", "c.yaml:2: context_servers: expected mapping, got int 3"),
        ("context_servers: [3]", "c.yaml:2: context_servers: expected mapping, got list"),
        (
            "context_servers:\n  env:\n    A: b\n    N: 1",
            "c.yaml:5: context_servers.env.N: expected str, got int 1; put",
        ),
        ("context_servers:\n  urls:\n  - 1", "c.yaml:4: context_servers.urls[0]: expected str, got int 1"),
        ("kv_cache_config:\n  dtype: bf16", "c.yaml:3: context_servers.kv_cache_config.dtype: expected one of auto, "),
        (
            "kv_cache_config: {tokens_per_block: 33}",
            "c.yaml:2: context_servers.kv_cache_config.tokens_per_block: expec",
        ),
        ("kv_cache_config: {free_gpu_memory_fraction: 0}", "c.yaml:2: context_servers.kv_cache_config.free_gpu_memory"),
        ("cache_transceiver_config: {backend: TCP}", "c.yaml:2: context_servers.cache_transceiver_config.backend: exp"),
        ("name: a/b", "c.yaml:2: name: 'a/b': letters, digits"),
        ("models: [{name: a, model: b}]", "c.yaml:1: model: belongs in the entry of `models`"),
        ("context_servers: {urls: [a]}", "c.yaml:2: context_servers.urls[0]: expected host:port, got 'a'"),
        ("context_servers: {urls: ['http://a:1']}", "c.yaml:2: context_servers.urls[0]: expected host:port"),
        ("context_servers: {urls: ['a:99999']}", "c.yaml:2: context_servers.urls[0]: expected host:port"),
        ("context_servers: {urls: ['a:1', 'a:1']}", "c.yaml:2: context_servers.urls[1]: a:1 stands here twice"),
        ("context_servers: {num_instances: 3, urls: ['a:1']}", "c.yaml:2: context_servers.urls: 1 urls, but num_inst"),
        ("context_servers: {num_instances: 0}", "c.yaml: no servers"),
        ("supervision: {backoff_s: 90}", "c.yaml:2: supervision.backoff_s: longer than max_backoff_s"),
        (
            "proxy: {breaker: {num_failures: 11}}",
            "c.yaml:2: proxy.breaker.num_failures: more than num_legs: it would never be reached",
        ),
        ("proxy: {breaker: {open_s: 90}}", "c.yaml:2: proxy.breaker.open_s: longer than max_open_s"),
        (
            "pipeline_parallel_size: 2\npp_partition: [1, 2, 3]",
            "c.yaml:3: context_servers.pp_partition: 3 stages, but pipeline_parallel_size is 2",
        ),
        ("moe_tensor_parallel_size: 0", "c.yaml:2: context_servers.moe_tensor_parallel_size: expected -1 (it follows"),
        ("autoscale: {context: {min: 3, max: 2}}", "c.yaml:2: autoscale.context: min 3 is above max 2"),
        (
            "generation_servers:\nautoscale: {enabled: true}",
            "c.yaml:3: autoscale.enabled: there are no context_servers in the file; both roles are needed",
        ),
        ("extra_llm_api_options: no.yaml", "c.yaml:2: context_servers.extra_llm_api_options: no.yaml: no such file"),
    ],
)
def test_a_wrong_file_is_told_where_it_is_wrong(load_text: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"model: m\n{text}")
    assert caught.value.message.startswith(message)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml: no servers"),
        ("worker_config: {}\nhardware: {}", "c.yaml is for TensorRT-LLM's submit.py; docs/slurm.md says"),
        (
            "cluster: x.yaml\nconcurrencies: [1]",
            "c.yaml says how to measure clusters: it is for `trtdisagg bench sweep`",
        ),
        ("model:", "c.yaml:1: model: names no model"),
        ("models: []", "c.yaml:1: models: names no model"),
        ("models: [{model: m}]", "c.yaml:1: models[0]: missing required field name"),
        ("models: [{name: a}]", "c.yaml: no servers"),
        ("models: [{name: a, model: m}, {name: b}]", "c.yaml:1: models[1]: names no `model`; either all entries do"),
        ("models: [{name: a/b, model: m}]", "c.yaml:1: models[0].name: 'a/b': letters, digits, dot, dash and und"),
        (
            "models:\n- {name: a, model: m}\n- {name: a, model: m2}",
            "c.yaml:3: models[1].name: a stands here twice; names of servers begin with it",
        ),
        (
            "models:\n- {name: a, model: m}\n- {name: b, served_model_name: a, model: m2}",
            "c.yaml:3: models[1]: clients would ask for a and mean models[0] as well",
        ),
        (
            "autoscale: {enabled: true}\nmodels:\n- {name: a, model: m}\n- {name: b, model: m, generation_servers: {}}",
            "c.yaml:1: autoscale.enabled: there are no models[1].context_servers in the file",
        ),
        (
            "context_servers: {num_instances: 2}",
            "c.yaml:1: context_servers: no `urls` of servers that run already, and",
        ),
    ],
)
def test_a_file_without_servers(load_text: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert caught.value.message.startswith(message)


def test_a_conflict_names_key_section_and_both_places(load_text: Load) -> None:
    text = "model: m\nmax_batch_size: 3\ngeneration_servers:\n  max_batch_size: 4\n"
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert caught.value.message.startswith("c.yaml:4: generation_servers.max_batch_size: 4 here, but 3 at c.yaml:2")


def test_a_conflict_with_a_worker_file(load_text: Load) -> None:
    Path("w.yaml").write_text("\nkv_cache_config:\n  max_tokens: 5\n")
    text = "model: m\ngeneration_servers: {extra_llm_api_options: w.yaml, kv_cache_config: {max_tokens: 4}}"
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert caught.value.message.startswith(
        "w.yaml:3: generation_servers.kv_cache_config.max_tokens: 5 here, but 4 at c.yaml:2"
    )


def test_an_error_in_a_worker_file_names_that_file(load_text: Load) -> None:
    Path("w.yaml").write_text("\nmax_bach_size: 5\n")
    with pytest.raises(ConfigError, match=r"^w\.yaml:2: generation_servers\.max_bach_size: unknown key; did you mean"):
        load_text("model: m\ngeneration_servers: {extra_llm_api_options: w.yaml}")


def test_a_mapping_at_both_places_is_one(load_text: Load) -> None:
    text = "model: m\nkv_cache_config: {max_tokens: 640}\n"
    text += "generation_servers: {kv_cache_config: {tokens_per_block: 16}}\n"
    cluster = load_text(text).cluster
    assert cluster.generation_servers
    config = cluster.generation_servers.kv_cache_config
    assert (config.max_tokens, config.tokens_per_block) == (640, 16)


def test_the_number_of_the_proxys_processes_stands_at_either_place(load_text: Load) -> None:
    for text in ("num_workers: 3", "proxy: {num_workers: 3}", "num_workers: 3\nproxy: {num_workers: 3}"):
        loaded = load_text(f"model: m\n{text}")
        assert loaded.cluster.proxy.num_workers == 3
        assert loaded.no_effect == []
    with pytest.raises(ConfigError, match=r"proxy.num_workers: 2 here, but 3 at"):
        load_text("model: m\nnum_workers: 3\nproxy: {num_workers: 2}")
    with pytest.raises(ConfigError, match=r"c.yaml:2: proxy.num_workers: expected int >= 1"):
        load_text("model: m\nnum_workers: 0")
