"""Cuts runs into pieces that fit into a slot each, and says where each run lies in its slot. Pure.

    runs     |aaaa|bb|   |cccccc|  |d|        somewhere in the two pools
    slot 0   |aaaa|bb|cc|                     packed: one behind the other
    slot 1   |cccc|d|

A run that does not fit any more is cut where the slot ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trtdisagg.cache.layout import Ints, Runs
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.helping import MAX_RUNS

_WIRE = np.dtype("<i8")


def pieces(runs: Runs, slot_bytes: int) -> Iterator[Runs]:
    """The same bytes as parts of at most `slot_bytes`, in order."""
    assert slot_bytes > 0
    cut = _cut(runs, slot_bytes)
    ends = np.cumsum(cut[:, 2])
    first = 0
    while first < len(cut):
        begin = ends[first] - cut[first, 2]
        last = min(int(np.searchsorted(ends, begin + slot_bytes, side="right")), first + MAX_RUNS)
        yield cut[first:last]
        first = last


def _cut(runs: Runs, slot_bytes: int) -> Runs:
    """Cut runs at each multiple of `slot_bytes` of all bytes."""
    ends = np.cumsum(runs[:, 2])
    begins = ends - runs[:, 2]
    num_parts = -(-ends // slot_bytes) - begins // slot_bytes
    which = np.repeat(np.arange(len(runs)), num_parts)
    part = np.arange(len(which)) - np.repeat(np.cumsum(num_parts) - num_parts, num_parts)
    floor = (begins[which] // slot_bytes + part) * slot_bytes
    begin, end = np.maximum(begins[which], floor), np.minimum(ends[which], floor + slot_bytes)
    return np.column_stack((runs[which, :2] + (begin - begins[which])[:, None], end - begin))


def packed_offsets(lengths: Ints) -> Ints:
    """Where each run begins in its slot."""
    offsets: Ints = np.cumsum(lengths) - lengths
    return offsets


def into_slot(asked: Ints, slot: int) -> Runs:
    """What the holder copies within its region.

    :param asked: [n, 2]: offset and length of each run.
    """
    return np.column_stack((slot + packed_offsets(asked[:, 1]), asked))


def out_of_slot(runs: Runs, slot: int) -> Runs:
    """What the rank that fetches copies within its region, where `runs` says what goes where."""
    return np.column_stack((runs[:, 0], slot + packed_offsets(runs[:, 2]), runs[:, 2]))


def as_asked(runs: Runs) -> bytes:
    """Of their side, for the wire."""
    return np.ascontiguousarray(runs[:, 1:], _WIRE).tobytes()


def read_asked(raw: bytes, slot_bytes: int) -> Ints:
    """
    :return: [n, 2]: offset and length of each run.
    :raises HandoverError: when they do not fit into a slot; whether they are in the pool is for the copy to say.
    """
    if len(raw) % 16:
        raise HandoverError(f"{len(raw)} bytes are no list of runs")
    asked = np.frombuffer(raw, _WIRE).reshape(-1, 2).astype(np.int64)
    lengths = asked[:, 1]
    if len(asked) > MAX_RUNS or (lengths < 0).any() or (lengths > slot_bytes).any() or lengths.sum() > slot_bytes:
        raise HandoverError(f"the runs do not fit into a slot of {slot_bytes} bytes")
    return asked
