"""Options that say what a section of the cluster file would, for servers that are put together without a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from trtdisagg.cli.upstream_options import no_effect
from trtdisagg.config.located import Located, Place

_UPSTREAM = (
    "backend",
    "custom_tokenizer",
    "gpus_per_node",
    "num_postprocess_workers",
    "otlp_traces_endpoint",
    "reasoning_parser",
    "revision",
    "tokenizer",
    "tool_parser",
)
"""Options of `trtllm-serve` that are keys of a section by the same name: what becomes of such a key is known there."""
_KEYS = {
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "ep_size": "moe_expert_parallel_size",
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len",
    "dtype": "dtype",
    "cp_size": "context_parallel_size",
    "cluster_size": "moe_cluster_parallel_size",
    "max_beam_width": "max_beam_width",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "trust_remote_code": "trust_remote_code",
    "config": "extra_llm_api_options",
    "extra_llm_api_options": "extra_llm_api_options",
    "kv_cache_free_gpu_memory_fraction": "free_gpu_memory_fraction",
    "cache_transceiver_backend": "cache_transceiver_config.backend",
    **{name: name for name in _UPSTREAM},
}
"""Option: key of the server's section."""

_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option("--tp_size", "--tensor_parallel_size", type=int, help="Ranks that share each layer."),
    click.option("--pp_size", "--pipeline_parallel_size", type=int, help="Ranks that share the layers out."),
    click.option("--ep_size", "--moe_expert_parallel_size", type=int, help="Ranks that share the experts out."),
    click.option("--max_batch_size", type=int),
    click.option("--max_num_tokens", type=int),
    click.option("--max_seq_len", type=int),
    click.option("--dtype"),
    click.option("--config", metavar="FILE", help="A server section, as YAML; --extra_llm_api_options means the same."),
    click.option("--extra_llm_api_options", hidden=True),
    click.option("--cache_transceiver_backend", help="How KV moves; with a role of context or generation, DEFAULT."),
    click.option("--kv_cache_free_gpu_memory_fraction", "--free_gpu_memory_fraction", type=float),
    click.option("--cp_size", "--context_parallel_size", type=int, hidden=True),
    click.option("--cluster_size", "--moe_cluster_parallel_size", type=int, hidden=True),
    click.option("--max_beam_width", type=int, hidden=True),
    click.option("--enable_chunked_prefill", is_flag=True, default=None, hidden=True),
    click.option("--trust_remote_code", is_flag=True, default=None, hidden=True),
    *(click.option(f"--{name}", hidden=True) for name in _UPSTREAM),
    no_effect("--log_level", because="there is one level of logging"),
)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(options: Mapping[str, Any]) -> list[str]:
    """Those that were given, as they are written."""
    return [f"--{option}" for option in _KEYS if options[option] is not None]


def section_of(options: Mapping[str, Any]) -> dict[str, Located]:
    """The options that were given as a section of a cluster file; each knows its name for error messages."""
    section: dict[str, Located] = {}
    for option, key in _KEYS.items():
        if (value := options[option]) is None:
            continue
        place = Place(f"--{option}")
        outer, _, inner = key.partition(".")
        if outer in section:
            raise click.UsageError(f"{section[outer].place} and {place} mean the same; give one of them")
        section[outer] = Located({inner: Located(value, place)}, place) if inner else Located(value, place)
    return section
