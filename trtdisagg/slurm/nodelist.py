"""Slurm's short forms, written out: lists of nodes, and numbers that repeat. Pure; `scontrol` is not needed.

node[01-03,07],gpu-a[1-2]-ib[0-1]  ->  node01 node02 node03 node07 gpu-a1-ib0 gpu-a1-ib1 gpu-a2-ib0 gpu-a2-ib1
4(x2),3                            ->  4 4 3
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from trtdisagg.errors import ConfigError

MAX_NODES = 65536
"""More than any Slurm has: whoever writes such a range has mistyped it."""

_ENTRY = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def node_names(text: str) -> list[str]:
    """The nodes of a list, in its order.

    :raises ConfigError: it is no such list, or names a node twice.
    """
    text = text.strip()
    entries = _ENTRY.findall(text)
    if ",".join(entries) != text or not entries:
        raise ConfigError(f"{text!r} is no list of nodes as Slurm writes them, such as node[01-03,07]")
    names = [name for entry in entries for name in _names(entry)]
    if len(set(names)) < len(names):
        raise ConfigError(f"{text!r} names {next(name for name in names if names.count(name) > 1)} twice")
    return names


def _names(entry: str) -> Iterator[str]:
    """Those of one entry: each combination of what stands in its brackets, the last bracket's first."""
    parts = [_numbers(ranges, entry) if ranges else [word] for ranges, word in _parts(entry)]
    if math.prod(len(part) for part in parts) > MAX_NODES:
        raise ConfigError(f"{entry!r} means more than {MAX_NODES} nodes")
    yield from map("".join, itertools.product(*parts))


def _parts(entry: str) -> list[tuple[str, str]]:
    """What is in brackets, or else what is not."""
    if "[]" in entry:
        raise ConfigError(f"{entry!r}: there is nothing between the brackets")
    return _PART.findall(entry)


def _numbers(ranges: str, entry: str) -> list[str]:
    """`01-03,07` -> 01, 02, 03, 07: as many digits as the first number of a range has."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ConfigError(f"{entry!r}: {part!r} is no number and no range of numbers")
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < MAX_NODES:
            raise ConfigError(f"{entry!r}: {part!r} is no range of at most {MAX_NODES} numbers")
        numbers += [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return numbers


def repeated_numbers(text: str, name: str) -> list[int]:
    """What `SLURM_TASKS_PER_NODE` and the like hold.

    :param name: of the variable, for messages.
    :raises ConfigError: it is nothing of the kind.
    """
    numbers: list[int] = []
    for part in text.strip().split(","):
        match = _REPEATED.fullmatch(part)
        if match is None or int(match[2] or 1) > MAX_NODES:
            raise ConfigError(f"{name}={text}: {part!r} is nothing like 4 or 4(x2)")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers
