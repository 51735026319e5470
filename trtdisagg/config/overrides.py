"""Values given beside the file, as `--set context_servers.num_instances=2`: each wins over what the file says.

A value for a server section counts after the section is whole, so it wins over what the section inherits and over a
worker's file; of the keys that both sections inherit, it counts for both. Among several the last one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from trtdisagg.config.located import Located, Place, kind, read_value
from trtdisagg.errors import ConfigError

_PATH = re.compile(r"[^.\[\]=]+(\.[^.\[\]=]+|\[\d+\])*")

Step = str | int
"""A key of a mapping, or a position in a list."""


class Override(msgspec.Struct, frozen=True):
    """One value for one path."""

    steps: tuple[Step, ...]
    value: Located

    @property
    def path(self) -> str:
        return join(self.steps)

    def below(self, num_steps: int) -> Override:
        """The same, seen from a mapping further down."""
        return Override(self.steps[num_steps:], self.value)


class SetValue(msgspec.Struct, frozen=True):
    """A value that was given beside the file, for people."""

    path: str
    value: Any
    was: Any | msgspec.UnsetType = msgspec.UNSET
    """What the file says; unset: nothing."""


def parse(texts: Iterable[str]) -> list[Override]:
    """Read `a.b=c`; the value is YAML, and `a[0]` is the first of a list.

    :raises ConfigError: when it is no such thing.
    """
    return [_parse(text) for text in texts]


def _parse(text: str) -> Override:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not _PATH.fullmatch(path):
        raise ConfigError(f"--set {text}: expected KEY=VALUE, such as context_servers.num_instances=2 or urls[0]=a:1")
    steps = tuple(int(index) if index else key for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path))
    return Override(steps, read_value(value, Place(f"--set {path}")))


def join(steps: Iterable[Step]) -> str:
    """`servers.urls[0]`"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def put(node: Located, overrides: Iterable[Override]) -> Located:
    """
    :param overrides: paths as seen from `node`.
    :raises ConfigError: when a path leads through something that has no such part.
    """
    for override in overrides:
        node = _put(node, override.steps, override.value)
    return node


def _put(node: Located, steps: tuple[Step, ...], value: Located) -> Located:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        return _put_item(node, step, rest, value)
    if node.value is not None and not isinstance(node.value, dict):
        hint = f"; of a list, [{step}] is an entry" if isinstance(node.value, list) and step.isdigit() else ""
        raise ConfigError(f"{value.place}: {node.place} has {_kind(node)} where {step!r} would be a key{hint}")
    inner = node.children.get(step, Located(None, value.place))
    return node.replace({**node.children, step: _put(inner, rest, value)})


def _put_item(node: Located, index: int, rest: tuple[Step, ...], value: Located) -> Located:
    """A position just behind the end makes the list longer."""
    items = [] if node.value is None else node.value
    if not isinstance(items, list):
        raise ConfigError(f"{value.place}: {node.place} has {_kind(node)}, not a list")
    if index > len(items):
        raise ConfigError(f"{value.place}: the list has {len(items)} entries, so there is no [{index}]")
    inner = items[index] if index < len(items) else Located(None, value.place)
    return Located([*items[:index], _put(inner, rest, value), *items[index + 1 :]], node.place)


def _kind(node: Located) -> str:
    return {"object": "a mapping", "array": "a list"}.get(kind(node.value), f"{node.value!r}")


def compare(root: Located, overrides: Iterable[Override]) -> list[SetValue]:
    """What each value stands in place of.

    :param root: the file as it was written.
    """
    return [SetValue(o.path, o.value.plain(), _written(root, o.steps)) for o in overrides]


def _written(node: Located, steps: tuple[Step, ...]) -> Any:
    for step in steps:
        parts: dict[Any, Located] = dict(enumerate(node.value)) if isinstance(node.value, list) else dict(node.children)
        if step not in parts:
            return msgspec.UNSET
        node = parts[step]
    return node.plain()
