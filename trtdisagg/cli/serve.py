"""`trtdisagg serve`: a cluster of one server and no proxy, put together from options instead of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from trtdisagg.cli.terminal import say
from trtdisagg.config.load import assemble
from trtdisagg.config.located import Located, Place
from trtdisagg.config.sections import SECTIONS
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import Place as RunPlace
from trtdisagg.supervisor.survey import survey

_KEYS = {
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "ep_size": "moe_expert_parallel_size",
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len",
    "dtype": "dtype",
    "backend": "backend",
    "trust_remote_code": "trust_remote_code",
    "config": "extra_llm_api_options",
    "extra_llm_api_options": "extra_llm_api_options",
    "kv_cache_free_gpu_memory_fraction": "free_gpu_memory_fraction",
    "cache_transceiver_backend": "cache_transceiver_config.backend",
}
"""Option: key of the server's section."""


@click.command()
@click.argument("model")
@click.option(
    "--role",
    "--server_role",
    type=click.Choice(["context", "generation", "both"], case_sensitive=False),
    default="both",
    show_default=True,
)
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--tp_size", type=int, help="Ranks that share each layer.")
@click.option("--pp_size", type=int, help="Ranks that share the layers out.")
@click.option("--ep_size", type=int, help="Ranks that share the experts out.")
@click.option("--max_batch_size", type=int)
@click.option("--max_num_tokens", type=int)
@click.option("--max_seq_len", type=int)
@click.option("--dtype")
@click.option("--config", metavar="FILE", help="A server section, as YAML; --extra_llm_api_options means the same.")
@click.option("--extra_llm_api_options", hidden=True)
@click.option("--cache_transceiver_backend", help="How KV moves; with a role of context or generation, DEFAULT.")
@click.option("--kv_cache_free_gpu_memory_fraction", "--free_gpu_memory_fraction", type=float)
@click.option("--served_model_name", help="What clients ask for.")
@click.option("--secret_file", metavar="FILE", help="The cluster's secret (0600), where others can reach the address.")
@click.option("--backend", hidden=True)
@click.option("--trust_remote_code", is_flag=True, default=None, hidden=True)
@click.option("--metadata_server_config_file", "metadata", hidden=True)
def command(
    *,
    model: str,
    role: Role,
    host: str,
    port: int,
    served_model_name: str | None,
    secret_file: str | None,
    metadata: str | None,
    **options: Any,
) -> int:
    """Run one server by hand, supervised, in the foreground.

    MODEL is an alias, a hub id, a directory with safetensors, or a .gguf file. The sizes are those of a section of the
    cluster file, where they are explained. `trtdisagg proxy` routes to servers started so.
    """
    if metadata:
        raise ConfigError("--metadata_server_config_file: a server registers itself with `trtdisagg join`")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    top = {"model": model, "served_model_name": served_model_name, "secret_file": secret_file}
    plan = _plan(role, _section(options, address), top, name=f"{role}-{port or os.getpid()}")
    from trtdisagg.cli.foreground import run_with_lines

    return run_with_lines(plan, RunPlace.of(f"serve {address} {os.getpid()}", plan.cluster))


def _section(options: dict[str, Any], address: str) -> dict[str, Located]:
    """The options that were given as a section of a cluster file; each knows its name for error messages."""
    section: dict[str, Located] = {"urls": Located([Located(address, Place("--port"))], Place("--port"))}
    for option, key in _KEYS.items():
        if (value := options[option]) is None:
            continue
        place = Place(f"--{option}")
        outer, _, inner = key.partition(".")
        if outer in section:
            raise click.UsageError(f"{section[outer].place} and {place} mean the same; give one of them")
        section[outer] = Located({inner: Located(value, place)}, place) if inner else Located(value, place)
    return section


def _plan(role: Role, section: dict[str, Located], top: dict[str, str | None], *, name: str) -> Plan:
    place = Place("serve")
    roles = [r for r in SECTIONS if role in ("both", r.removesuffix("_servers"))]
    root = {key: Located(value, place) for key, value in top.items() if value is not None}
    root |= {r: Located(section, place) for r in roles}
    cluster, no_effect = assemble(Located(root, place), Path())
    plan = survey(cluster, name=name, with_proxy=False, default_backend=None if role == "both" else "DEFAULT")
    say(*no_effect, *plan.notices)
    return plan
