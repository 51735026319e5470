"""Checks that every key of a file is known, and takes out those that have no effect.

Knows keys and the table of TensorRT-LLM's; values are looked at only where the table does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from trtdisagg.config import shape
from trtdisagg.config.located import Located, Place
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import CacheTransceiverConfig, KvCacheConfig, RouterConfig, ServerSection
from trtdisagg.config.upstream import TABLE, NoEffect, NotThereYet
from trtdisagg.errors import ConfigError

_ROUTED_TO = {"num_instances", "urls", "router"}
_OF_A_SERVER = (ServerSection, KvCacheConfig, CacheTransceiverConfig, RouterConfig)
"""Where TensorRT-LLM takes `null` for: as if it were not written."""
_RUNS_ALREADY = NoEffect("the servers of this file run already and are only routed to")


class Notice(msgspec.Struct, frozen=True):
    """A key that was accepted and changes nothing."""

    place: Place
    key: str
    because: str

    def __str__(self) -> str:
        return f"{self.place.naming(self.key)}: no effect here, because {self.because}"


class Pruner:
    """One pass over a file; `notices` collects what was taken out, by place, so that a key which both sections inherit
    counts once.

    :param only_routes: the servers are not ours to start: of their sections only what the proxy needs is kept.
    """

    def __init__(self, *, only_routes: bool) -> None:
        self._only_routes = only_routes
        self._notices: dict[tuple[Place, str], Notice] = {}

    @property
    def notices(self) -> list[Notice]:
        return list(self._notices.values())

    def prune(self, node: Located, struct: type[msgspec.Struct], path: str = "") -> Located:
        """
        :param struct: what `node` is to become; a list holds several.
        :returns: the same with only keys that the schema has; nothing at all counts as an empty mapping.
        :raises ConfigError: a key is unknown, or asks for something that is not there yet.
        """
        if isinstance(node.value, list):
            items = [self.prune(item, struct, f"{path}[{i}]") for i, item in enumerate(node.value)]
            return Located(items, node.place)
        if node.value is not None and not isinstance(node.value, dict):
            return node
        return node.replace(
            {
                key: self._inner(child, struct, key, _join(path, key))
                for key, child in node.children.items()
                if self._stays(child, struct, key, _join(path, key))
            }
        )

    def _inner(self, child: Located, struct: type[msgspec.Struct], key: str, path: str) -> Located:
        inner = shape.struct_of(shape.type_of(struct, key))
        return self.prune(child, inner, path) if inner else child

    def _stays(self, child: Located, struct: type[msgspec.Struct], key: str, path: str) -> bool:
        known = TABLE.get(struct, {}).get(key)
        if known is None and key not in shape.keys(struct):
            raise _unknown(child, struct, key, path)
        if struct is ServerSection and self._only_routes and key not in _ROUTED_TO:
            known = _RUNS_ALREADY
        if isinstance(known, NoEffect):
            inherited = (child.place, key) in self._notices
            self._notices[child.place, key] = Notice(child.place, key if inherited else path, known.because)
            return False
        if child.value is None and struct in _OF_A_SERVER:
            return False
        if isinstance(known, NotThereYet) and known.asks(child.plain()):
            raise ConfigError(f"{child.place.naming(path)}: {_short(child.plain())}: {known.what}: not there yet")
        return key in shape.keys(struct)


def _unknown(child: Located, struct: type[msgspec.Struct], key: str, path: str) -> ConfigError:
    message = f"{child.place.naming(path)}: unknown key"
    if homes := dict.fromkeys(home for home, keys in _homes(ClusterFile) if key in keys):
        return ConfigError(f"{message} here; it belongs in {' or '.join(homes)}")
    here = (struct, ServerSection) if struct is ClusterFile else (struct,)  # the sections inherit from the top level
    near = shape.nearest(key, [known for one in here for known in (*shape.keys(one), *TABLE.get(one, {}))])
    return ConfigError(f"{message}; did you mean {near}?" if near else message)


def _homes(struct: type[msgspec.Struct]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every mapping of the schema below the top level: its key, and the keys in it."""
    for key in shape.keys(struct):
        inner = shape.struct_of(shape.type_of(struct, key))
        if inner and key != "models":
            yield key, shape.keys(inner)
            yield from _homes(inner)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
