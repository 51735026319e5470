"""Looks a schema of msgspec Structs over: which keys it has, what stands at a path, which words a value may be.

Knows types only; the files and the keys' meanings are elsewhere.
"""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

import msgspec


def keys(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return struct.__struct_fields__


def struct_of(key_type: Any) -> type[msgspec.Struct] | None:
    """The Struct in a field's type: of `Foo`, `Foo | None` and `list[Foo]`, `Foo`."""
    if isinstance(key_type, type) and not isinstance(key_type, types.GenericAlias):
        return key_type if issubclass(key_type, msgspec.Struct) else None
    found = (struct_of(arg) for arg in typing.get_args(key_type))
    return next((struct for struct in found if struct), None)


def type_of(struct: type[msgspec.Struct], path: str) -> Any:
    """The type of the field at a path such as `servers.kv_cache_config.dtype`; list positions do not count.

    :returns: None where the path leaves the Structs, as into a plain dict.
    """
    found: Any = struct
    for key in re.findall(r"[^.\[\]]+", re.sub(r"\[[^\]]*\]", "", path)):
        inner = struct_of(found)
        found = _fields(inner).get(key) if inner else None
    return found


def words_of(key_type: Any) -> list[str]:
    """The words a field may be, where its type is a Literal of words."""
    args = typing.get_args(key_type)
    if typing.get_origin(key_type) is typing.Literal:
        return [str(arg) for arg in args]
    return [word for arg in args for word in words_of(arg)]


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that `key` was most likely meant to be."""
    match = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.6)
    return match[0] if match else None


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}
