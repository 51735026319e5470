"""How routers are written: our way, TensorRT-LLM's ways, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.load import Loaded, load
from trtdisagg.config.server_keys import RouterConfig
from trtdisagg.errors import ConfigError


def loaded(path: Path, text: str) -> Loaded:
    file = path / "c.yaml"
    file.write_text(text)
    return load(file, env={})


@pytest.mark.parametrize(
    "router",
    [
        "{type: kv_cache_aware, use_tokens: true, max_batch_size: 32}",
        "{type: kv_cache_aware, args: {use_tokens: true, max_batch_size: 32}}",
        "{type: kv_cache_aware, use_tokens: true, args: {use_tokens: true, max_batch_size: 32}}",
    ],
)
def test_keys_stand_beside_the_type_or_in_args(tmp_path: Path, router: str) -> None:
    section = loaded(tmp_path, f"model: m\ncontext_servers: {{router: {router}}}\n").cluster.context_servers
    assert section is not None
    assert section.router == RouterConfig(type="kv_cache_aware", use_tokens=True, max_batch_size=32)


def test_each_section_has_its_own_and_both_inherit(tmp_path: Path) -> None:
    sections = (
        "context_servers: {router: {type: load_balancing}}\ngeneration_servers: {router: {type: conversation, args:}}"
    )
    cluster = loaded(tmp_path, f"model: m\n{sections}\n").cluster
    assert cluster.context_servers is not None
    assert cluster.generation_servers is not None
    assert (cluster.context_servers.router.type, cluster.generation_servers.router.type) == (
        "load_balancing",
        "session",
    )
    both = loaded(tmp_path, "model: m\nrouter: {type: load_balancing, tokens_per_block: 32}\n")
    assert both.cluster.context_servers is not None
    assert both.cluster.context_servers.router.type == "load_balancing"
    assert "tokens_per_block: no effect here" in str(both.no_effect[0])


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("{router: {type: fastest}}", "expected one of round_robin, load_balancing, kv_cache_aware, session"),
        ("{router: {args: {use_token: true}}}", "did you mean use_tokens"),
        ("{router: {use_tokens: false, args: {use_tokens: true}}}", "leave one of the two out"),
        ("{router: {args: 5}}", "args: unknown key"),
        ("{router: {max_batch_size: 0}}", "max_batch_size"),
        (
            "{router: {type: kv_cache_aware}, kv_cache_config: {enable_block_reuse: false}}",
            "kv_cache_aware looks for blocks that servers have kept, but kv_cache_config.enable_block_reuse is false",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(tmp_path: Path, section: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:2: context_servers.router") as e:
        loaded(tmp_path, f"model: m\ncontext_servers: {section}\ngeneration_servers:\n")
    assert complaint in e.value.message


def test_a_prompt_of_less_than_none_is_no_limit(tmp_path: Path) -> None:
    text = "model: m\nconditional_disagg_config: {max_local_prefill_length: %d}\n"
    assert loaded(tmp_path, text % 64).cluster.conditional_disagg_config.max_local_prefill_length == 64
    with pytest.raises(ConfigError, match="max_local_prefill_length"):
        loaded(tmp_path, text % -1)
