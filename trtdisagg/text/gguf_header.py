"""Reads the header of a GGUF file: metadata and where the tensors lie, not the tensors themselves.

The `gguf` package reads the same through numpy, one array a field: seconds for a vocabulary. This takes a tenth of one.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    magic | version | num_tensors | num_keys | key, type, value ... | name, shape, type, offset ... | padding | data
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
from math import prod
from typing import Any

import msgspec

from trtdisagg.errors import StartupError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF value type -> struct code."""
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)


class GgufTensor(msgspec.Struct, frozen=True):
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]
    """In torch's order: slowest first, the reverse of the file's."""
    type: int
    """A `gguf.GGMLQuantizationType`."""
    offset: int
    """From the start of the file, in bytes."""


class GgufHeader(msgspec.Struct, frozen=True):
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data_offset: int
    """Where the header ends and the data begins, in bytes."""

    @property
    def num_parameters(self) -> int:
        return sum(prod(t.shape) for t in self.tensors.values())


def read_gguf_header(path: str) -> GgufHeader:
    """Read metadata and tensor table of the file at `path`.

    :raises StartupError: when there is no such file or it is no GGUF file of version 2 or 3.
    """
    try:
        status = os.stat(path)
        return _read(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError as e:
        raise StartupError(f"The model file {path} cannot be read: {e.strerror or e}") from e
    except (ValueError, TypeError, ArithmeticError, struct.error, LookupError, RecursionError) as e:
        raise StartupError(f"{path} is not a GGUF file that can be read: {e}") from e


@functools.lru_cache(maxsize=1)
def _read(path: str, _version: tuple[int, ...]) -> GgufHeader:
    """Kept for the next caller: dimensions, tokenizer and weights of one file are asked for one after the other.

    :param _version: tells the file from one that took its place.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return _Cursor(view).header()


class _Cursor:
    """Walks through the header from its first byte."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}; versions {_VERSIONS} are read")
        num_tensors, num_keys = self._scalar("Q"), self._scalar("Q")
        metadata = {self._string(): self._value(self._scalar("I")) for _ in range(num_keys)}
        tensors = [self._tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        data_offset = -(-self.at // alignment) * alignment
        placed = {t.name: msgspec.structs.replace(t, offset=t.offset + data_offset) for t in tensors}
        return GgufHeader(metadata, placed, data_offset)

    def _tensor(self) -> GgufTensor:
        name = self._string()
        num_dims = self._scalar("I")
        shape = struct.unpack(f"<{num_dims}Q", self._take(8 * num_dims))
        return GgufTensor(name, tuple(reversed(shape)), self._scalar("I"), self._scalar("Q"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind in _SCALARS:
            code = f"<{count}{_SCALARS[kind]}"
            return list(struct.unpack(code, self._take(struct.calcsize(code))))
        return [self._value(kind) for _ in range(count)]

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8", "replace")

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.view, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def _take(self, num_bytes: int) -> bytes:
        if self.at + num_bytes > len(self.view):
            raise ValueError("it ends in the middle of its header")
        taken = self.view[self.at : self.at + num_bytes]
        self.at += num_bytes
        return taken
