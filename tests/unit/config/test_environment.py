"""Variables of TensorRT-LLM stand for keys; what the file says wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trtdisagg.config.environment import DEFAULTS, VARIABLES
from trtdisagg.config.load import Loaded, load
from trtdisagg.config.server_keys import CacheTransceiverConfig
from trtdisagg.config.upstream import TABLE
from trtdisagg.errors import ConfigError

Load = Callable[..., Loaded]


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as `c.yaml`, in an environment."""
    monkeypatch.chdir(tmp_path)

    def load_it(text: str, env: Mapping[str, str], *overrides: str, **options: bool) -> Loaded:
        Path("c.yaml").write_text(text)
        return load("c.yaml", overrides, env=env, **options)

    return load_it


def of_context(loaded: Loaded) -> CacheTransceiverConfig:
    assert loaded.cluster.context_servers is not None
    return loaded.cluster.context_servers.cache_transceiver_config


def origin(loaded: Loaded, key: str, section: str = "context_servers") -> str:
    return str(loaded.origins[f"{section}.cache_transceiver_config.{key}"])


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP", "1", "disable_overlap", True),
        ("TRTLLM_ENABLE_KVCACHE_RECEIVE_PARALLEL", "0", "receive_parallel", False),
        ("TRTLLM_REQUEST_KV_CACHE_CONCURRENT", "0", "receive_concurrent", False),
        ("TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER", "1", "zero_copy", True),
        ("TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE", "256MB", "buffer_size", "256MB"),
        ("TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM", "4", "send_max_concurrency", 4),
        ("TRTLLM_NIXL_KVCACHE_BACKEND", "libfabric", "nixl_plugin", "LIBFABRIC"),
        ("TRTLLM_USE_UCX_KVCACHE", "1", "backend", "UCX"),
        ("TRTLLM_USE_NIXL_KVCACHE", "1", "backend", "NIXL"),
        ("TRTLLM_USE_MPI_KVCACHE", "1", "backend", "MPI"),
    ],
)
def test_a_variable_stands_for_its_key_in_both_sections(
    load_text: Load, name: str, text: str, key: str, value: Any
) -> None:
    loaded = load_text("model: m", {name: text})
    for section in (loaded.cluster.context_servers, loaded.cluster.generation_servers):
        assert section is not None
        assert getattr(section.cache_transceiver_config, key) == value
        assert value != getattr(CacheTransceiverConfig(), key), "else nothing was shown"
    assert (origin(loaded, key), loaded.no_effect) == (f"environment {name}", [])


def test_every_variable_names_a_key_that_there_is() -> None:
    known = {*CacheTransceiverConfig.__struct_fields__, *TABLE[CacheTransceiverConfig]}
    assert {v.key for v in VARIABLES} < known
    assert len({v.name for v in VARIABLES} | set(DEFAULTS)) == len(VARIABLES) + len(DEFAULTS)


def test_a_variable_that_changes_nothing_is_said_once(load_text: Load) -> None:
    (notice,) = load_text("model: m", {"TRTLLM_KVCACHE_TRANSFER_USE_ASYNC_BUFFER": "1"}).no_effect
    assert str(notice).startswith("environment TRTLLM_KVCACHE_TRANSFER_USE_ASYNC_BUFFER: ")
    assert "no effect here, because the staging buffer is allocated once" in str(notice)


def test_the_file_wins_and_it_is_said(load_text: Load) -> None:
    text = "model: m\ncache_transceiver_config: {send_max_concurrency: 2}\n"
    loaded = load_text(text, {"TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM": "4"})
    assert of_context(loaded).send_max_concurrency == 2
    assert [str(notice) for notice in loaded.no_effect] == [
        "environment TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM: no effect here, because c.yaml:2 says "
        "send_max_concurrency: 2"
    ]
    assert origin(loaded, "send_max_concurrency") == "c.yaml:2"


def test_what_both_say_is_no_conflict(load_text: Load) -> None:
    text = "model: m\ncache_transceiver_config: {zero_copy: true}\n"
    assert load_text(text, {"TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER": "1"}).no_effect == []


def test_what_is_set_on_the_command_line_wins_over_all(load_text: Load) -> None:
    given = "cache_transceiver_config.zero_copy=false"
    loaded = load_text("model: m", {"TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER": "1"}, given)
    assert not of_context(loaded).zero_copy
    assert origin(loaded, "zero_copy").startswith("--set")


def test_the_environment_of_a_section_wins_over_ours(load_text: Load) -> None:
    text = "model: m\ncontext_servers:\n  env:\n    TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE: 1GB\ngeneration_servers:\n"
    loaded = load_text(text, {"TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE": "2GB"})
    assert of_context(loaded).buffer_size == "1GB"
    assert origin(loaded, "buffer_size") == "c.yaml:4: env TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE"
    assert origin(loaded, "buffer_size", "generation_servers") == "environment TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE"


def test_default_is_what_a_variable_says(load_text: Load) -> None:
    env = {"TRTLLM_USE_UCX_KVCACHE": "1"}
    text = "model: m\ncontext_servers: {cache_transceiver_config: {backend: default}}\ngeneration_servers:\n"
    assert of_context(load_text(text, env)).backend == "UCX"
    loaded = load_text(text.replace("default", "LOCAL"), env)
    assert of_context(loaded).backend == "LOCAL"
    assert "c.yaml:2 says backend: LOCAL" in str(loaded.no_effect[0])


def test_in_an_entry_of_models(load_text: Load) -> None:
    text = "models: [{name: a, model: m, context_servers: {}, generation_servers: {}}]"
    loaded = load_text(text, {"TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER": "1"})
    assert of_context(loaded).zero_copy
    assert origin(loaded, "zero_copy") == "environment TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER"


def test_empty_is_not_set_and_others_are_not_ours(load_text: Load) -> None:
    loaded = load_text("model: m", {"TRTLLM_USE_UCX_KVCACHE": "", "UCX_TLS": "sm", "TRTLLM_LOG_LEVEL": "x"})
    assert of_context(loaded) == CacheTransceiverConfig()


def test_servers_that_run_already_have_read_theirs(load_text: Load) -> None:
    env = {"TRTLLM_USE_UCX_KVCACHE": "yes"}
    assert load_text("context_servers: {urls: ['a:1']}\n", env).no_effect == []


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TRTLLM_USE_UCX_KVCACHE": "yes"}, r"^environment TRTLLM_USE_UCX_KVCACHE: expected 0 or 1, got 'yes'$"),
        ({"TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM": "two"}, "CONCURRENCY_NUM: expected a number, got 'two'$"),
        (
            {"TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM": "0"},
            r"^environment TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM: context_servers\..*: expected int >= 1, got int 0$",
        ),
        ({"TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE": "512 megs"}, "^environment TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE: "),
        ({"TRTLLM_NIXL_KVCACHE_BACKEND": "GDS"}, "expected one of UCX, LIBFABRIC, got 'GDS'"),
        ({"TRTLLM_USE_MOONCAKE_KVCACHE": "1"}, "'MOONCAKE': this transfer backend: not there yet"),
        (
            {"TRTLLM_USE_UCX_KVCACHE": "1", "TRTLLM_USE_MPI_KVCACHE": "1"},
            "TRTLLM_USE_UCX_KVCACHE and TRTLLM_USE_MPI_KVCACHE are both 1",
        ),
    ],
)
def test_a_wrong_value_names_the_variable(load_text: Load, env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_text("model: m", env)
