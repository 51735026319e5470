"""Copies of runs of bytes between memories of this process, on the host or on its device."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import torch

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
    _check(runs, to[1], from_[1])
    for to_offset, from_offset, num_bytes in runs.tolist():
        ctypes.memmove(to[0] + to_offset, from_[0] + from_offset, num_bytes)  # releases the GIL


def copy_within(memory: torch.Tensor, runs: Runs, *, source_bytes: int | None = None) -> None:
    """Copy within one region, on the host or on its device, and wait. Sources and targets must not overlap.

    :param memory: all of it, as bytes.
    :param runs: where to, where from, number of bytes.
    :param source_bytes: nothing is read beyond; None: beyond the end.
    :raises IndexError: when a run lies outside; then nothing is copied.
    """
    limit = len(memory) if source_bytes is None else source_bytes
    if memory.device.type == "cpu":
        copy_runs((memory.data_ptr(), len(memory)), (memory.data_ptr(), limit), runs)
        return
    _check(runs, len(memory), limit)
    with torch.cuda.device(memory.device):
        stream = torch.cuda.Stream()  # beside the model's
        with torch.cuda.stream(stream):
            copy_by_index(memory, runs)
        stream.synchronize()


def copy_by_index(memory: torch.Tensor, runs: Runs) -> None:
    """All runs by one gather and one scatter, of units that all of them are made of."""
    unit = math.gcd(*(int(n) for n in np.gcd.reduce(runs, axis=0))) if len(runs) else 0
    if unit == 0:
        return
    units = memory[: len(memory) // unit * unit].view(-1, unit)
    counts = runs[:, 2] // unit
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    to, from_ = (torch.from_numpy(np.repeat(runs[:, i] // unit, counts) + within).to(memory.device) for i in (0, 1))
    units.index_copy_(0, to, units.index_select(0, from_))


def _check(runs: Runs, to_bytes: int, from_bytes: int) -> None:
    if (runs < 0).any() or (runs[:, :2] + runs[:, 2:] > (to_bytes, from_bytes)).any():
        raise IndexError("a run lies outside the memory")
