"""YAML that remembers where each value was written.

Knows YAML and places in files; knows nothing of the cluster file's keys. Only plain data is built (safe loading), and
a key that stands twice in a mapping, which YAML libraries let pass, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from trtdisagg.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
MAX_NUM_VALUES = 100_000
_TAG = "tag:yaml.org,2002:"
_MERGE_TAG = _TAG + "merge"


class Place(msgspec.Struct, frozen=True):
    """A line of a file, as people name it: `cluster.yaml:7`. What is no file, as `--port` or `--set a.b`, has no
    lines."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def naming(self, path: str) -> str:
        """Place and path, `cluster.yaml:7: a.b`; the path once where the place says it already."""
        return str(self) if self.file.endswith(f" {path}") else f"{self}: {path}"


class Located(msgspec.Struct, frozen=True, eq=False):
    """A value and its place. A mapping's value is a dict of Located, a sequence's a list of them."""

    value: Any
    place: Place
    """Of a value in a mapping, where its key stands."""

    @property
    def children(self) -> dict[str, Located]:
        """The entries of a mapping; of anything else none."""
        return self.value if isinstance(self.value, dict) else {}

    def replace(self, children: dict[str, Located]) -> Located:
        return Located(children, self.place)

    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def places(self, path: str = "") -> Iterator[tuple[str, Place]]:
        """Path and place of every value that has none in it."""
        inner = [(f"{path}.{key}" if path else key, child) for key, child in self.children.items()]
        if isinstance(self.value, list):
            inner = [(f"{path}[{i}]", item) for i, item in enumerate(self.value)]
        if not inner:
            yield path, self.place
        for child_path, child in inner:
            yield from child.places(child_path)

    def at(self, path: str) -> Located:
        """The value at a path such as `servers.urls[0]`, or the innermost one on the way that is there."""
        found = self
        for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
            if key and key in found.children:
                found = found.children[key]
            elif index and isinstance(found.value, list) and int(index) < len(found.value):
                found = found.value[int(index)]
            else:
                break
        return found


def read(path: Path, shown: str | None = None) -> Located:
    """Read a YAML file whose top is a mapping.

    :param shown: how error messages name the file; by default as `path` is written.
    :raises ConfigError: the file is missing or unreadable, is not YAML, has a key twice, or is no mapping.
    """
    shown = shown or str(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{shown}: no such file") from None
    except OSError as e:
        raise ConfigError(f"{shown}: cannot be read: {e.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{shown}: longer than {MAX_FILE_BYTES} bytes, which no configuration is")
    return _parse(text, shown)


def _parse(text: bytes, shown: str) -> Located:
    root = _build(text, Place(shown, 1), lambda line: Place(shown, line))
    if root.value is None:
        return Located({}, root.place)
    if not isinstance(root.value, dict):
        raise ConfigError(f"{root.place}: expected a mapping of keys to values, got {kind(root.value)}")
    return root


def read_value(text: str, place: Place) -> Located:
    """Read one value that stands in no file, with all that is in it at one place; no text at all is null.

    :raises ConfigError: when it is no YAML.
    """
    return _build(text, place, lambda _line: place)


def _build(text: str | bytes, whole: Place, place_of: Callable[[int], Place]) -> Located:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # not the C loader: deep nesting overflows its stack
        return _Builder(place_of).build(node, None) if node else Located(None, whole)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = place_of(mark.line + 1 if mark else 1)
        raise ConfigError(f"{place}: not valid YAML: {e.problem or e.context}") from None
    except RecursionError:
        raise ConfigError(f"{whole.file}: nested too deeply") from None
    except yaml.YAMLError as e:  # characters that YAML does not allow, or not UTF-8
        raise ConfigError(f"{whole.file}: not valid YAML: {str(e).splitlines()[0]}") from None


def kind(value: Any) -> str:
    """What a plain value is, in the words that msgspec's messages use."""
    names = {type(None): "null", dict: "object", list: "array"}
    return names.get(type(value), type(value).__name__)


class _Builder:
    """Turns YAML nodes into Located values.

    :param place_of: the place of a line, counted from 1.
    """

    def __init__(self, place_of: Callable[[int], Place]) -> None:
        self._place_of = place_of
        self._scalars = yaml.constructor.SafeConstructor()
        self._open: set[int] = set()
        self._num_values = 0

    def build(self, node: yaml.Node, key: yaml.Node | None) -> Located:
        """:param key: the node of the key that `node` stands under."""
        place = self._place(key or node)
        self._num_values += 1
        if id(node) in self._open:
            raise ConfigError(f"{place}: the alias refers to what it is part of")
        if self._num_values > MAX_NUM_VALUES:
            raise ConfigError(f"{place}: more than {MAX_NUM_VALUES} values, aliases counted as often as they are used")
        self._open.add(id(node))
        value = self._value(node)
        self._open.remove(id(node))
        return Located(value, place)

    def _value(self, node: yaml.Node) -> Any:
        if node.tag == _TAG + "map":
            return self._mapping(node)
        if node.tag == _TAG + "seq":
            return [self.build(item, None) for item in node.value]
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(f"{self._place(node)}: the tag {node.tag.removeprefix(_TAG)} has no meaning here")
        try:
            return self._scalars.construct_object(node)
        except ValueError as e:  # a month 13
            raise ConfigError(f"{self._place(node)}: {node.value}: {e}") from None

    def _mapping(self, node: yaml.Node) -> dict[str, Located]:
        own: dict[str, Located] = {}
        merged: dict[str, Located] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for other in self._merged(value_node):
                    merged = {**other, **merged}
                continue
            key = self._key(key_node)
            if key in own:
                first = own[key].place.line
                raise ConfigError(f"{self._place(key_node)}: {key}: the key stands here twice, first in line {first}")
            own[key] = self.build(value_node, key_node)
        return {**merged, **own}

    def _merged(self, node: yaml.Node) -> list[dict[str, Located]]:
        """What `<<:` brings in: one mapping, or a list of them."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        built = [self.build(n, None) for n in nodes]
        for other in built:
            if not isinstance(other.value, dict):
                raise ConfigError(f"{self._place(node)}: <<: expected a mapping, got {kind(other.value)}")
        return [other.children for other in built]

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(f"{self._place(node)}: a key must be a word, not a mapping or a list")
        text: str = node.value
        return text

    def _place(self, node: yaml.Node) -> Place:
        return self._place_of(node.start_mark.line + 1)
