"""Reads any mapping of a YAML file into a Struct: unknown keys and wrong values are errors with file, line and path.

For files other than the cluster file, which has more to say of its keys (`keys`, `load`).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from trtdisagg.config import shape
from trtdisagg.config.located import Located
from trtdisagg.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)


def convert(root: Located, struct: type[S]) -> S:
    """
    :raises ConfigError: with the place of what does not fit.
    """
    _check_keys(root, struct, "")
    try:
        return msgspec.convert(root.plain(), struct)
    except msgspec.ValidationError as e:
        message, _, path = str(e).partition(" - at `$")
        path = path.rstrip("`").lstrip(".")
        at = root.at(path).place
        raise ConfigError(f"{at.naming(path or 'the file')}: {message.replace('`', '')}") from None


def _check_keys(node: Located, struct: type[msgspec.Struct], path: str) -> None:
    if isinstance(node.value, list):
        for i, item in enumerate(node.value):
            _check_keys(item, struct, f"{path}[{i}]")
        return
    for key, child in node.children.items():
        child_path = f"{path}.{key}" if path else key
        if key not in shape.keys(struct):
            near = shape.nearest(key, shape.keys(struct))
            raise ConfigError(
                f"{child.place.naming(child_path)}: unknown key" + (f"; did you mean {near}?" if near else "")
            )
        if inner := shape.struct_of(shape.type_of(struct, key)):
            _check_keys(child, inner, child_path)
