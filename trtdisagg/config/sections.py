"""Makes the server sections of a cluster file whole: what they inherit, the worker files they name, older spellings.

Works on values with places, before the schema looks at them, so that a merged value keeps the file and line where it
was written. TensorRT-LLM's rule holds throughout: the same key at two places is fine with one value, an error with two.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trtdisagg.config import shape
from trtdisagg.config.located import Located, read
from trtdisagg.config.schema import ClusterFile, ServerSection
from trtdisagg.config.upstream import BACKEND_SPELLINGS, TABLE
from trtdisagg.errors import ConfigError

SECTIONS = ("context_servers", "generation_servers")
_OWN_TO_A_SECTION = {"urls", "num_instances"}
_OF_THE_FILE = {*shape.keys(ClusterFile), *TABLE[ClusterFile]}
_INHERITED = {*shape.keys(ServerSection), *TABLE[ServerSection]} - _OF_THE_FILE - _OWN_TO_A_SECTION

_Children = dict[str, Located]


def complete(root: Located, *, worker_files: Path | None) -> Located:
    """The file with each section as if everything that counts for it were written there.

    :param worker_files: the directory that `extra_llm_api_options` is relative to; None: servers that run already have
        read theirs, so it is not needed.
    :raises ConfigError: a key stands at two places with different values, or a worker's file is missing or not YAML.
    """
    inherited = {key: value for key, value in root.children.items() if key in _INHERITED}
    own = {key: value for key, value in root.children.items() if key not in inherited}

    def section(name: str, written: Located) -> Located:
        if written.value is not None and not isinstance(written.value, dict):
            return written
        children = _inherit(name, written.children, inherited)
        if worker_files:
            children = _merge_worker_file(name, children, worker_files)
        return written.replace(_modernize(children))

    models = own.get("models")
    if models and isinstance(models.value, list):
        own["models"] = Located([_complete_entry(entry, section) for entry in models.value], models.place)
    return _complete_entry(root.replace(own), section)


def _complete_entry(entry: Located, section: Callable[[str, Located], Located]) -> Located:
    """:param entry: the whole file, or one of its `models`."""
    if not isinstance(entry.value, dict):
        return entry
    children = dict(entry.children)
    if "model" in children and not any(name in children for name in SECTIONS):
        children |= {name: Located({}, children["model"].place) for name in SECTIONS}
    return entry.replace({key: section(key, child) if key in SECTIONS else child for key, child in children.items()})


def _inherit(name: str, children: _Children, inherited: _Children) -> _Children:
    for key, value in inherited.items():
        if key in children and children[key].plain() != value.plain():
            raise _conflict(f"{name}.{key}", children[key], value)
    return {**inherited, **children}


def _merge_worker_file(name: str, children: _Children, directory: Path) -> _Children:
    option = children.get("extra_llm_api_options")
    if option is None or not isinstance(option.value, str):
        return children
    path = directory / option.value
    try:
        worker = read(path)
    except ConfigError as e:
        raise ConfigError(f"{option.place}: {name}.extra_llm_api_options: {e.message}") from None
    return _merge(name, children, worker.children)


def _merge(name: str, one: _Children, other: _Children) -> _Children:
    merged = {**other, **one}
    for key in one.keys() & other.keys():
        path = f"{name}.{key}"
        if one[key].children and other[key].children:
            merged[key] = one[key].replace(_merge(path, one[key].children, other[key].children))
        elif one[key].plain() != other[key].plain():
            raise _conflict(path, other[key], one[key])
    return merged


def _conflict(path: str, here: Located, there: Located) -> ConfigError:
    return ConfigError(
        f"{here.place}: {path}: {here.plain()!r} here, but {there.plain()!r} at {there.place}; "
        "leave one of the two out, or make them equal"
    )


def _modernize(children: _Children) -> _Children:
    """Older and shorter spellings, written as the schema has them."""
    children = dict(children)
    kv_cache = children.get("kv_cache_config")
    kv_children = kv_cache.children if kv_cache else {}
    if "free_gpu_memory_fraction" in children and "free_gpu_memory_fraction" not in kv_children:
        fraction = children.pop("free_gpu_memory_fraction")
        place = kv_cache.place if kv_cache else fraction.place
        children["kv_cache_config"] = Located({**kv_children, "free_gpu_memory_fraction": fraction}, place)
    if "env_overrides" in children and "env" not in children:
        children["env"] = children.pop("env_overrides")
    if transceiver := children.get("cache_transceiver_config"):
        children["cache_transceiver_config"] = _modernize_transceiver(transceiver)
    urls = children.get("urls")
    if urls and isinstance(urls.value, list):
        children.setdefault("num_instances", Located(len(urls.value), urls.place))
    return children


def _modernize_transceiver(transceiver: Located) -> Located:
    """`enable_cache_transceiver: true` was once the way to say `backend: DEFAULT`, and backends were in lower case."""
    children = dict(transceiver.children)
    if not children:
        return transceiver
    enable = children.get("enable_cache_transceiver")
    if enable and enable.value is True:
        children.setdefault("backend", Located("DEFAULT", enable.place))
    backend = children.get("backend")
    if backend and isinstance(backend.value, str):
        children["backend"] = Located(BACKEND_SPELLINGS.get(backend.value, backend.value), backend.place)
    return transceiver.replace(children)
