"""Copies of runs of bytes within memory that this process can address."""

from __future__ import annotations

import ctypes

import numpy as np

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.native import extension

Memory = tuple[int, int]
"""Address, number of bytes."""


def copy_runs(to: Memory, from_: Memory, runs: Runs) -> None:
    """Copy without the GIL.

    :param runs: offset in `to`, offset in `from_`, number of bytes.
    :raises IndexError: when one lies outside; then nothing is copied.
    """
    runs = np.ascontiguousarray(runs, np.int64)
    if csrc := extension():
        csrc.copy_runs(*to, *from_, runs)
        return
    ends = runs[:, :2] + runs[:, 2:]
    if (runs < 0).any() or (ends > (to[1], from_[1])).any():
        raise IndexError("a run lies outside the memory")
    for to_offset, from_offset, num_bytes in runs.tolist():
        ctypes.memmove(to[0] + to_offset, from_[0] + from_offset, num_bytes)  # releases the GIL
