"""Environment variables that TensorRT-LLM documents for KV transfer, as aliases of keys of `cache_transceiver_config`.

The one place where a variable becomes a setting: nothing else reads them. What the file says wins, as it does upstream
where a key and a variable mean the same (an explicit backend, a buffer in tokens): a variable may have come with a
shell's profile or a site's prolog, the file was meant. So it goes, first to last:

    --set  >  the file  >  `env` of the section  >  our environment  >  the default

Variables of UCX, NIXL and NCCL are not read at all: servers inherit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from trtdisagg.config.keys import Notice
from trtdisagg.config.located import Located, Place
from trtdisagg.config.sections import SECTIONS
from trtdisagg.errors import ConfigError

_KEY = "cache_transceiver_config"
INHERITED = ("UCX_", "NIXL_", "NCCL_")
"""Beginnings of the names of variables that servers inherit and libraries in them read."""


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("expected a number")
    return int(text)


class Variable(msgspec.Struct, frozen=True):
    """`read` raises ValueError with what was expected; whether the value is in range, the key's type says."""

    name: str
    key: str
    read: Callable[[str], Any]


VARIABLES = (
    Variable("TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP", "disable_overlap", _flag),
    Variable("TRTLLM_ENABLE_KVCACHE_RECEIVE_PARALLEL", "receive_parallel", _flag),
    Variable("TRTLLM_REQUEST_KV_CACHE_CONCURRENT", "receive_concurrent", _flag),
    Variable("TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER", "zero_copy", _flag),
    Variable("TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE", "buffer_size", str),
    Variable("TRTLLM_KVCACHE_TRANSFER_USE_ASYNC_BUFFER", "async_buffer", _flag),
    Variable("TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM", "send_max_concurrency", _number),
    Variable("TRTLLM_NIXL_KVCACHE_BACKEND", "nixl_plugin", str.upper),
)
DEFAULTS = {
    "TRTLLM_USE_UCX_KVCACHE": "UCX",
    "TRTLLM_USE_NIXL_KVCACHE": "NIXL",
    "TRTLLM_USE_MPI_KVCACHE": "MPI",
    "TRTLLM_USE_MOONCAKE_KVCACHE": "MOONCAKE",
}
"""What `backend: DEFAULT`, or no backend, means when one of them is 1."""


class _Found(msgspec.Struct, frozen=True):
    """A variable that is set."""

    name: str
    text: str
    place: Place

    def read(self, read: Callable[[str], Any]) -> Located:
        try:
            return Located(read(self.text), self.place)
        except ValueError as e:
            raise ConfigError(f"{self.place.naming(self.name)}: {e}, got {self.text!r}") from None

    def without_effect(self, key: str, written: Located) -> Notice:
        return Notice(self.place, self.name, f"{written.place} says {key}: {written.plain()}")


def with_variables(root: Located, env: Mapping[str, str]) -> tuple[Located, list[Notice]]:
    """
    :param root: a file whose sections are whole.
    :returns: the same with the values of variables where the file names none, and those that it overrules.
    :raises ConfigError: a variable has a value that it cannot have, or two contradict each other.
    """
    notices: dict[Notice, None] = {}
    root = _of_entry(root, env, notices)
    models = root.children.get("models")
    if models and isinstance(models.value, list):
        entries = Located([_of_entry(entry, env, notices) for entry in models.value], models.place)
        root = root.replace({**root.children, "models": entries})
    return root, list(notices)


def _of_entry(entry: Located, env: Mapping[str, str], notices: dict[Notice, None]) -> Located:
    """:param entry: the whole file, or one of its `models`."""
    if not isinstance(entry.value, dict):
        return entry
    children = entry.children.items()
    return entry.replace(
        {key: _of_section(child, env, notices) if key in SECTIONS else child for key, child in children}
    )


def _of_section(section: Located, env: Mapping[str, str], notices: dict[Notice, None]) -> Located:
    written = section.children.get(_KEY, Located(None, section.place))
    if not all(node.value is None or isinstance(node.value, dict) for node in (section, written)):
        return section  # whose type is wrong is said later
    found = dict(_set_variables(section, env))
    values = {**_values(found), **_default(found)}
    notices.update(dict.fromkeys(_overruled(values, written)))
    mine = {key: value for key, (_, value) in values.items() if not _says(written, key)}
    return section.replace({**section.children, _KEY: written.replace({**written.children, **mine})})


_Values = dict[str, tuple[_Found, Located]]
"""By key of `cache_transceiver_config`."""


def _set_variables(section: Located, env: Mapping[str, str]) -> Iterator[tuple[str, _Found]]:
    """Those with a value; an empty one is as if it were not set."""
    there = section.children.get("env")
    own = there.children if there else {}
    for name in (*(variable.name for variable in VARIABLES), *DEFAULTS):
        if (mine := own.get(name)) is not None and isinstance(mine.value, str):
            yield name, _Found(name, mine.value, Place(f"{mine.place}: env {name}"))
        elif text := env.get(name):
            yield name, _Found(name, text, Place(f"environment {name}"))


def _values(found: Mapping[str, _Found]) -> _Values:
    there = ((v, found[v.name]) for v in VARIABLES if v.name in found)
    return {variable.key: (one, one.read(variable.read)) for variable, one in there}


def _default(found: Mapping[str, _Found]) -> _Values:
    chosen = [one for name, one in found.items() if name in DEFAULTS and one.read(_flag).value]
    if len(chosen) > 1:
        names = " and ".join(one.name for one in chosen)
        raise ConfigError(
            f"{names} are both 1, and there is one backend; set one of them, or cache_transceiver_config.backend"
        )
    if not chosen:
        return {}
    (one,) = chosen
    return {"backend": (one, Located(DEFAULTS[one.name], one.place))}


def _says(written: Located, key: str) -> bool:
    value = written.children[key].value if key in written.children else None
    return value is not None and not (key == "backend" and value == "DEFAULT")


def _overruled(values: _Values, written: Located) -> Iterator[Notice]:
    for key, (one, value) in values.items():
        if _says(written, key) and written.children[key].plain() != value.value:
            yield one.without_effect(key, written.children[key])
