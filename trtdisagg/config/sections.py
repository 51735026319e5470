"""Makes the server sections of a cluster file whole: what they inherit, the worker files they name, older spellings.

Works on values with places, before the schema looks at them, so that a merged value keeps the file and line where it
was written. TensorRT-LLM's rule holds throughout: the same key at two places is fine with one value, an error with two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trtdisagg.config import shape
from trtdisagg.config.located import Located, read
from trtdisagg.config.overrides import Override, Step, put
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.upstream import BACKEND_SPELLINGS, ROUTER_SPELLINGS, TABLE
from trtdisagg.errors import ConfigError

SECTIONS = ("context_servers", "generation_servers")
_SECTION_STEPS: set[tuple[Step, ...]] = {(name,) for name in SECTIONS}
_OWN_TO_A_SECTION = {"urls", "num_instances"}
_OF_THE_FILE = {*shape.keys(ClusterFile), *TABLE[ClusterFile]}
_INHERITED = {*shape.keys(ServerSection), *TABLE[ServerSection]} - _OF_THE_FILE - _OWN_TO_A_SECTION
_RESPELT: dict[Step, tuple[Step, ...]] = {
    "free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    "env_overrides": ("env",),
}

_Children = dict[str, Located]


def complete(root: Located, *, worker_files: Path | None, overrides: Sequence[Override] = ()) -> Located:
    """The file with each section as if everything that counts for it were written there.

    :param worker_files: the directory that `extra_llm_api_options` is relative to; None: servers that run already have
        read theirs, so it is not needed.
    :param overrides: those that are for sections; see `of_sections`.
    :raises ConfigError: a key stands at two places with different values, or a worker's file is missing or not YAML.
    """
    root = _with_workers(root)
    inherited = {key: value for key, value in root.children.items() if key in _INHERITED}
    own = {key: value for key, value in root.children.items() if key not in inherited}

    def section(name: str, written: Located, given: Sequence[Override]) -> Located:
        if written.value is not None and not isinstance(written.value, dict):
            return written
        whole = written.replace(_merge(name, inherited, written.children))
        if worker_files:
            option = put(whole, given).children.get("extra_llm_api_options")
            whole = whole.replace(_merge_worker_file(name, whole.children, option, worker_files))
        return whole.replace(_modernize(name, put(whole, given).children, are_ours=worker_files is not None))

    models = own.get("models")
    if models and isinstance(models.value, list):
        entries = [_complete_entry(e, section, _of_entry(overrides, i)) for i, e in enumerate(models.value)]
        own["models"] = Located(entries, models.place)
    return _complete_entry(root.replace(own), section, overrides)


def _with_workers(root: Located) -> Located:
    """TensorRT-LLM has the number of the proxy's processes at the top."""
    workers = root.children.get("num_workers")
    proxy = root.children.get("proxy") or Located({}, root.place)
    if workers is None or not isinstance(proxy.value, dict | None):
        return root
    whole = proxy.replace(_merge("proxy", {"num_workers": workers}, proxy.children))
    others = {key: child for key, child in root.children.items() if key != "num_workers"}
    return root.replace({**others, "proxy": whole})


def of_sections(override: Override) -> bool:
    """Whether an override is for something in a section, or for what both inherit, rather than for the file."""
    steps = override.steps[2:] if override.steps[0] == "models" else override.steps
    return (steps[:1] in _SECTION_STEPS and len(steps) > 1) or override.steps[0] in _INHERITED


def _of_entry(overrides: Sequence[Override], i: int) -> list[Override]:
    """Those for the i-th of `models`, as seen from there."""
    mine = [o for o in overrides if o.steps[0] in _INHERITED or o.steps[:2] == ("models", i)]
    return [o.below(2) if o.steps[0] == "models" else o for o in mine]


def _of_section(overrides: Sequence[Override], name: str) -> list[Override]:
    """Those for a section, as seen from there and in the schema's spelling."""
    mine = [o for o in overrides if o.steps[0] == name or o.steps[0] in _INHERITED]
    seen = [o.below(1) if o.steps[0] == name else o for o in mine]
    return [Override(_RESPELT.get(o.steps[0], o.steps[:1]) + o.steps[1:], o.value) for o in seen]


def _complete_entry(
    entry: Located, section: Callable[[str, Located, Sequence[Override]], Located], overrides: Sequence[Override]
) -> Located:
    """:param entry: the whole file, or one of its `models`."""
    if not isinstance(entry.value, dict):
        return entry
    children = dict(entry.children)
    if "model" in children and not any(name in children for name in SECTIONS):
        children |= {name: Located({}, children["model"].place) for name in SECTIONS}
    for override in overrides:
        if override.steps[:1] in _SECTION_STEPS:
            children.setdefault(str(override.steps[0]), Located({}, override.value.place))
    return entry.replace(
        {
            key: section(key, child, _of_section(overrides, key)) if key in SECTIONS else child
            for key, child in children.items()
        }
    )


def _merge_worker_file(name: str, children: _Children, option: Located | None, directory: Path) -> _Children:
    """:param option: what names the file."""
    if option is None or not isinstance(option.value, str):
        return children
    path = directory / option.value
    try:
        worker = read(path)
    except ConfigError as e:
        raise ConfigError(f"{option.place.naming(f'{name}.extra_llm_api_options')}: {e.message}") from None
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
        f"{here.place.naming(path)}: {here.plain()!r} here, but {there.plain()!r} at {there.place}; "
        "leave one of the two out, or make them equal"
    )


def _modernize(name: str, children: _Children, *, are_ours: bool) -> _Children:
    """Older and shorter spellings, written as the schema has them.

    :param are_ours: the servers; of others only what routing needs is looked at, and the rest named as it is written.
    """
    children = dict(children)
    kv_cache = children.get("kv_cache_config")
    kv_children = kv_cache.children if kv_cache else {}
    if are_ours and "free_gpu_memory_fraction" in children and "free_gpu_memory_fraction" not in kv_children:
        fraction = children.pop("free_gpu_memory_fraction")
        place = kv_cache.place if kv_cache else fraction.place
        children["kv_cache_config"] = Located({**kv_children, "free_gpu_memory_fraction": fraction}, place)
    if "env_overrides" in children and "env" not in children:
        children["env"] = children.pop("env_overrides")
    if transceiver := children.get("cache_transceiver_config"):
        children["cache_transceiver_config"] = _modernize_transceiver(transceiver)
    if router := children.get("router"):
        children["router"] = _modernize_router(f"{name}.router", router)
    urls = children.get("urls")
    if urls and isinstance(urls.value, list):
        children.setdefault("num_instances", Located(len(urls.value), urls.place))
    return children


def _modernize_transceiver(transceiver: Located) -> Located:
    """`enable_cache_transceiver: true` was once the way to say `backend: DEFAULT`, backends were in lower case, and the
    buffer's size had another name."""
    children = dict(transceiver.children)
    if not children:
        return transceiver
    enable = children.get("enable_cache_transceiver")
    if enable and enable.value is True:
        children.setdefault("backend", Located("DEFAULT", enable.place))
    if "max_num_tokens" in children and "max_tokens_in_buffer" not in children:
        children["max_tokens_in_buffer"] = children.pop("max_num_tokens")
    backend = children.get("backend")
    if backend and isinstance(backend.value, str):
        children["backend"] = Located(BACKEND_SPELLINGS.get(backend.value, backend.value), backend.place)
    return transceiver.replace(children)


def _modernize_router(path: str, router: Located) -> Located:
    """TensorRT-LLM has a router's keys beside its type, or in `args`, and another name for sessions."""
    children = dict(router.children)
    args = children.get("args")
    if args is not None and isinstance(args.value, dict | None):
        del children["args"]
        children = _merge(path, children, args.children)
    type_ = children.get("type")
    if type_ and isinstance(type_.value, str):
        children["type"] = Located(ROUTER_SPELLINGS.get(type_.value, type_.value), type_.place)
    return router.replace(children) if router.children else router
