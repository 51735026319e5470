"""What the proxy knows of each model: routers, and which prompts need no context server. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.protocol.proxy_spec import ANY_MODEL, ModelSpec, RouterSpec


def plan_routing(
    cluster: ClusterFile, served_names: Mapping[str, str], paths: Mapping[str, str]
) -> dict[str, ModelSpec]:
    """
    :param served_names: what clients call each `model` of the file that says nothing of it.
    :param paths: of each `model`; those of which the prompts can be read here.
    :returns: by the name that clients use; where servers that run already say it themselves, `ANY_MODEL`.
    """
    entries = cluster.models or [
        ModelEntry(
            name=cluster.served_model_name or "",
            model=cluster.model,
            context_servers=cluster.context_servers,
            generation_servers=cluster.generation_servers,
        )
    ]
    local = cluster.conditional_disagg_config.max_local_prefill_length
    return {
        entry.served_name or served_names.get(entry.model or "", ANY_MODEL): ModelSpec(
            context_router=_router(entry.context_servers),
            generation_router=_router(entry.generation_servers),
            max_local_prefill_length=local or None,
            model_path=paths.get(entry.model or ""),
        )
        for entry in entries
    }


def _router(section: ServerSection | None) -> RouterSpec:
    if section is None:
        return RouterSpec()
    config = section.router
    return RouterSpec(
        type=config.type, use_tokens=config.use_tokens, max_batch_size=config.max_batch_size or section.max_batch_size
    )
