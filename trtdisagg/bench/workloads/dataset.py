"""Reads a file of prompts, of any of these forms, told apart by what is in it:

a prompt a line                                          text that begins neither with { nor with [, or any .txt
{"prompt": "..."}                                        JSON lines, or the same in a list; forms.py has the keys
[{"conversations": [{"from": "human", "value": "..."}]}] ShareGPT
[{"input": "...", "instruction": "...", "output": ""}]   benchmark_core_model
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trtdisagg.bench.workloads.forms import Entry, FormError, read_core_model, read_object, read_sharegpt
from trtdisagg.errors import ConfigError

_Found = tuple[str, Sequence[Entry | None]]


class Dataset(msgspec.Struct, frozen=True):
    """A file of prompts."""

    file: str
    form: str
    """In words, for the user: what it was taken for."""
    entries: list[Entry]
    num_skipped: int = 0
    """Conversations in which nobody asks anything."""


def read_dataset(file: Path) -> Dataset:
    """
    :raises ConfigError: when it cannot be read, holds nothing, or something that is none of the forms; says which line.
    """
    text = _text(file)
    start = "" if file.suffix == ".txt" else text.lstrip()[:1]
    form, found = {"[": _array, "{": _json_lines}.get(start, _lines)(file, text)
    entries = [e for e in found if e is not None]
    if not entries:
        raise ConfigError(f"{file} has no prompts")
    return Dataset(str(file), form, entries, len(found) - len(entries))


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise ConfigError(f"{file} cannot be read: {e.strerror or e}") from e
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{file}, line {line}: no UTF-8 (byte {e.start} of the file)") from e


# Split at \n alone: prompts and JSON may hold other characters that end lines.


def _lines(_file: Path, text: str) -> _Found:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return "a prompt a line", [Entry(prompt=line) for line in lines if line.strip()]


def _json_lines(file: Path, text: str) -> _Found:
    lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    entries = [_entry(f"{file}, line {i}", _read_line, line) for i, line in lines]
    return "JSON lines", entries


def _read_line(line: str) -> Entry:
    return read_object(_decode(line))


def _array(file: Path, text: str) -> _Found:
    try:
        items = _decode(text)
    except FormError as e:
        raise ConfigError(f"{file}: {e}. A file of prompts that begin with [ needs a name that ends in .txt") from e
    first = items[0] if items and isinstance(items[0], dict) else {}
    form, read = _form(first)
    return form, [_entry(f"{file}, item {i}", read, item) for i, item in enumerate(items, start=1)]


def _form(first: dict[str, Any]) -> tuple[str, Callable[[Any], Entry | None]]:
    if "conversations" in first:
        return "ShareGPT", read_sharegpt
    if {"input", "instruction", "output"} <= first.keys():
        return "benchmark_core_model", read_core_model
    return "JSON", read_object


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as e:
        raise FormError(f"no JSON ({e})") from e


def _entry(place: str, read: Callable[[Any], Entry | None], item: Any) -> Entry | None:
    try:
        return read(item)
    except FormError as e:
        raise ConfigError(f"{place}: {e}") from e
