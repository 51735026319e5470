"""Sizes in memory as people write them: `512MB`, where a MB is 1024 * 1024 bytes, as TensorRT-LLM counts."""

from __future__ import annotations

import re

PATTERN = r"^([0-9]{1,12}) ?([KMGT]?)i?B?$"
GIB = 2**30
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


def size_bytes(size: int | str) -> int:
    """
    :param size: bytes, or a text that has the form of `PATTERN`.

    >>> size_bytes("512MB")
    536870912
    """
    if isinstance(size, int):
        return size
    matched = re.match(PATTERN, size)
    assert matched, size
    return int(matched[1]) * _UNITS[matched[2]]
