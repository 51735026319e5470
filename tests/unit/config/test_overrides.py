"""`--set`: what it may say, and over what it wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from trtdisagg.config.load import Loaded, load
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_text(text: str, *overrides: str) -> Loaded:
    Path("c.yaml").write_text(text)
    return load("c.yaml", overrides)


def sections(text: str, *overrides: str) -> tuple[ServerSection, ServerSection]:
    cluster = load_text(text, *overrides).cluster
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    return cluster.context_servers, cluster.generation_servers


def test_a_key_of_the_file() -> None:
    cluster = load_text("model: m\nport: 1", "port=2", "supervision.backoff_s=0.5", "model=n").cluster
    assert (cluster.port, cluster.supervision.backoff_s, cluster.model) == (2, 0.5, "n")


def test_one_section_of_two_that_the_model_alone_makes() -> None:
    context, generation = sections("model: m", "context_servers.num_instances=3")
    assert (context.num_instances, generation.num_instances) == (3, 1)


def test_a_section_that_the_file_has_not() -> None:
    context, _ = sections("model: m\ngeneration_servers:", "context_servers.num_instances=2")
    assert context.num_instances == 2


def test_a_whole_section() -> None:
    context, _ = sections("model: m\ncontext_servers: {gpus: [1]}\ngeneration_servers:", "context_servers={cores: [7]}")
    assert (context.gpus, context.cores) == (None, [7])


def test_lists_whole_and_by_position() -> None:
    text = "model: m\ncontext_servers: {urls: ['localhost:1', 'localhost:2']}\ngeneration_servers:"
    context, generation = sections(text, "context_servers.urls[1]=localhost:3", "generation_servers.gpus=[0, 1]")
    assert (context.urls, generation.gpus) == (["localhost:1", "localhost:3"], [0, 1])
    longer, _ = sections(text, "context_servers.urls[2]=localhost:3")
    assert longer.num_instances == 3


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("max_batch_size: 3", "context_servers.max_batch_size=5"),
        ("context_servers: {max_batch_size: 3}\ngeneration_servers:", "max_batch_size=5"),
        ("extra_llm_api_options: w.yaml", "context_servers.max_batch_size=5"),
        ("extra_llm_api_options: w.yaml", "max_batch_size=5"),
        ("", "extra_llm_api_options=w5.yaml"),
    ],
)
def test_it_wins_over_what_is_inherited_and_over_worker_files(text: str, override: str) -> None:
    Path("w.yaml").write_text("max_batch_size: 3")
    Path("w5.yaml").write_text("max_batch_size: 5")
    assert sections(f"model: m\n{text}", override)[0].max_batch_size == 5


def test_the_rest_of_an_inherited_mapping_stays() -> None:
    text = "model: m\nkv_cache_config: {tokens_per_block: 16}"
    context, generation = sections(text, "context_servers.kv_cache_config.max_tokens=160")
    assert (context.kv_cache_config.tokens_per_block, context.kv_cache_config.max_tokens) == (16, 160)
    assert generation.kv_cache_config.max_tokens is None


@pytest.mark.parametrize("spelling", ["free_gpu_memory_fraction", "kv_cache_config.free_gpu_memory_fraction"])
def test_older_spellings(spelling: str) -> None:
    text = "model: m\nkv_cache_config: {free_gpu_memory_fraction: 0.9}"
    assert sections(text, f"{spelling}=0.5")[1].kv_cache_config.free_gpu_memory_fraction == 0.5


def test_the_last_one_wins() -> None:
    assert sections("model: m", "max_batch_size=1", "context_servers.max_batch_size=2")[0].max_batch_size == 2
    assert sections("model: m", "context_servers.max_batch_size=2", "max_batch_size=1")[0].max_batch_size == 1


def test_null_is_the_default() -> None:
    assert sections("model: m\nmax_seq_len: 9", "max_seq_len=null")[0].max_seq_len is None


def test_an_entry_of_models() -> None:
    text = "models: [{name: a, model: m}]"
    overrides = ["models[0].name=b", "models[0].context_servers.num_instances=2", "max_num_tokens=7"]
    cluster = load_text(text, *overrides).cluster
    assert cluster.served_model_name == "b"
    assert cluster.context_servers == ServerSection(num_instances=2, max_num_tokens=7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("port", "--set port: expected KEY=VALUE, such as "),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("a..b=3", "--set a..b=3: expected KEY=VALUE"),
        ("port={", "--set port: not valid YAML: "),
        ("port=x", "--set port: expected int, got str 'x'"),
        (
            "context_servers.num_instances=x",
            "--set context_servers.num_instances: expected int, got str 'x'",
        ),
        ("max_batch_size=x", "--set max_batch_size: context_servers.max_batch_size: expected int, got str 'x'"),
        (
            "context_servers.num_instnces=2",
            "--set context_servers.num_instnces: unknown key; did you mean num_instances?",
        ),
        ("max_batch_sise=2", "--set max_batch_sise: unknown key; did you mean max_batch_size?"),
        ("model.x=2", "--set model.x: c.yaml:1 has 'm' where 'x' would be a key"),
        ("model[0]=2", "--set model[0]: c.yaml:1 has 'm', not a list"),
        ("context_servers.urls[1]=a:1", "--set context_servers.urls[1]: the list has 0 entries, so there is no [1]"),
        ("context_servers.urls=[a]", "--set context_servers.urls: context_servers.urls[0]: expected host:port"),
        ("context_servers.env.A=1", "--set context_servers.env.A: expected str, got int 1; put it in quotes"),
        ("models=[{name: a, model: b}]", "c.yaml:1: model: belongs in the entry of `models`"),
        ("context_servers.max_beam_width=2", "--set context_servers.max_beam_width: 2: beam search"),
    ],
)
def test_what_is_wrong_names_the_option(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load_text("model: m", override)
    assert e.value.message.startswith(message)


def test_a_key_of_a_list_says_how_its_entries_are_written() -> None:
    with pytest.raises(ConfigError, match=r"--set models.0.name: c.yaml:1 has a list where '0' .* \[0\] is an entry"):
        load_text("models: [{name: a, model: m}]", "models.0.name=b")


def test_no_effect_names_the_option() -> None:
    (notice,) = load_text("context_servers: {urls: ['a:1']}", "context_servers.max_batch_size=3").no_effect
    assert str(notice).startswith("--set context_servers.max_batch_size: no effect here, because the servers")


def test_the_fingerprint_tells_and_so_does_what_was_loaded() -> None:
    plain, changed = load_text("model: m\nport: 1"), load_text("model: m\nport: 1", "port=2", "max_retries=3")
    assert plain.fingerprint != changed.fingerprint
    assert changed.fingerprint == load_text("model: m\nport: 2\nmax_retries: 3").fingerprint
    told: list[tuple[str, Any, Any]] = [(o.path, o.value, o.was) for o in changed.overrides]
    assert told == [("port", 2, 1), ("max_retries", 3, msgspec.UNSET)]


def test_every_scalar_of_the_top_level_can_be_given() -> None:
    """With its default, which changes nothing."""
    default = ClusterFile()
    given = [f"{key}={msgspec.json.encode(getattr(default, key)).decode()}" for key in ("hostname", "port", "name")]
    assert load_text("model: m", *given).fingerprint == load_text("model: m").fingerprint
