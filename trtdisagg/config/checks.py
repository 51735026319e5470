"""What must hold between the keys of a cluster file, beyond the type of each.

Knows the file alone: whether the machine can hold the cluster is decided in the supervisor's plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trtdisagg.config.located import Located
from trtdisagg.config.registry_checks import check_registry
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.slurm_checks import check_slurm
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.otlp import check_endpoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IN_PATHS = "letters, digits, dot, dash and underscore only: it is part of paths"
_URL = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@?#\[\]]+):(\d{1,5})")


def check(cluster: ClusterFile, root: Located, *, only_routes: bool, elsewhere: bool = False) -> None:
    """
    :param root: the same file with places.
    :param elsewhere: servers are also found somewhere else, so there may be none in the file.
    :raises ConfigError: with the line and path of what does not fit.
    """
    if cluster.name is not None and not _NAME.fullmatch(cluster.name):
        raise _error(root, "name", f"{cluster.name!r}: {_IN_PATHS}")
    _check_models(cluster, root, only_routes)
    check_registry(cluster, root)
    check_slurm(cluster, root)
    elsewhere = elsewhere or cluster.disagg_cluster.cluster_uri is not None
    sections = list(_sections(cluster))
    for path, section in sections:
        _check_urls(root, path, section, run_already=only_routes, elsewhere=elsewhere)
        _check_ranks(root, path, section)
        _check_router(root, path, section)
    if not elsewhere and not any(section.num_instances for _, section in sections):
        raise ConfigError(
            f"{root.place.file}: no servers: name a `model:` to start, or `urls` of servers that run already"
        )
    _check_otlp(cluster, root)
    if not only_routes:
        _check_autoscale(cluster, root)
    if cluster.supervision.backoff_s > cluster.supervision.max_backoff_s:
        raise _error(root, "supervision.backoff_s", "longer than max_backoff_s")
    breaker = cluster.proxy.breaker
    if breaker.num_failures > breaker.num_legs:
        raise _error(root, "proxy.breaker.num_failures", "more than num_legs: it would never be reached")
    if breaker.open_s > breaker.max_open_s:
        raise _error(root, "proxy.breaker.open_s", "longer than max_open_s")


def _check_otlp(cluster: ClusterFile, root: Located) -> None:
    if (endpoint := cluster.otlp_config.otlp_traces_endpoint) is None:
        return
    try:
        check_endpoint(endpoint)
    except ValueError as e:
        raise _error(root, "otlp_config.otlp_traces_endpoint", str(e)) from None


def _check_autoscale(cluster: ClusterFile, root: Located) -> None:
    there = {path for path, _ in _sections(cluster)}
    prefixes = [f"models[{i}]." for i in range(len(cluster.models))] or [""]
    for role in ("context", "generation"):
        bounds = getattr(cluster.autoscale, role)
        if bounds.min > bounds.max:
            raise _error(root, f"autoscale.{role}", f"min {bounds.min} is above max {bounds.max}")
        missing = [f"{prefix}{role}_servers" for prefix in prefixes if f"{prefix}{role}_servers" not in there]
        if cluster.autoscale.enabled and missing:
            message = f"there are no {missing[0]} in the file; both roles are needed to scale them"
            raise _error(root, "autoscale.enabled", message)


def _check_models(cluster: ClusterFile, root: Located, only_routes: bool) -> None:
    for key in ("model", "served_model_name", "context_servers", "generation_servers"):
        if cluster.models and getattr(cluster, key) is not None:
            raise _error(root, key, "belongs in the entry of `models` that the file has as well")
    if not only_routes and not cluster.model and not cluster.models:
        raise _error(root, "model" if "model" in root.children else "models", "names no model")
    served: dict[str, str] = {}
    for i, entry in enumerate(cluster.models):
        path = f"models[{i}]"
        if not _NAME.fullmatch(entry.name):
            raise _error(root, f"{path}.name", f"{entry.name!r}: {_IN_PATHS}; served_model_name may have others")
        if not only_routes and not entry.model:
            raise _error(root, path, "names no `model`; either all entries do, or none")
        if any(entry.name == other.name for other in cluster.models[:i]):
            raise _error(root, f"{path}.name", f"{entry.name} stands here twice; names of servers begin with it")
        if (other := served.setdefault(entry.served_name, path)) != path:
            raise _error(root, path, f"clients would ask for {entry.served_name} and mean {other} as well")


def _sections(cluster: ClusterFile) -> Iterator[tuple[str, ServerSection]]:
    entries: list[tuple[str, ClusterFile | ModelEntry]] = [("", cluster)]
    entries += [(f"models[{i}].", entry) for i, entry in enumerate(cluster.models)]
    for prefix, entry in entries:
        for name in ("context_servers", "generation_servers"):
            if section := getattr(entry, name):
                yield prefix + name, section


def _check_urls(root: Located, path: str, section: ServerSection, *, run_already: bool, elsewhere: bool) -> None:
    if run_already and section.num_instances and not section.urls and not elsewhere:
        no_model = "" if "model" in root.children else ", and the file has no `model` to start some with"
        raise _error(root, path, f"no `urls` of servers that run already{no_model}")
    if section.urls and len(section.urls) != section.num_instances:
        raise _error(root, f"{path}.urls", f"{len(section.urls)} urls, but num_instances is {section.num_instances}")
    for i, url in enumerate(section.urls):
        matched = _URL.fullmatch(url)
        if not matched or not (1 if run_already else 0) <= int(matched[2]) <= 65535:
            raise _error(root, f"{path}.urls[{i}]", f"expected host:port, got {url!r}")
        if url in section.urls[:i]:
            raise _error(root, f"{path}.urls[{i}]", f"{url} stands here twice")


def _check_ranks(root: Located, path: str, section: ServerSection) -> None:
    num_stages = len(section.pp_partition or [])
    if num_stages and num_stages != section.pipeline_parallel_size:
        message = f"{num_stages} stages, but pipeline_parallel_size is {section.pipeline_parallel_size}"
        raise _error(root, f"{path}.pp_partition", message)
    for key in ("moe_tensor_parallel_size", "moe_expert_parallel_size"):
        if getattr(section, key) == 0:
            raise _error(root, f"{path}.{key}", "expected -1 (it follows from the others) or at least 1, got 0")


def _check_router(root: Located, path: str, section: ServerSection) -> None:
    if section.router.type == "kv_cache_aware" and not section.kv_cache_config.enable_block_reuse:
        message = "looks for blocks that servers have kept, but kv_cache_config.enable_block_reuse is false"
        raise _error(root, f"{path}.router.type", f"kv_cache_aware {message}")


def _error(root: Located, path: str, message: str) -> ConfigError:
    return ConfigError(f"{root.at(path).place.naming(path)}: {message}")
