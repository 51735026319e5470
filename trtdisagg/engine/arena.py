"""Memory for weights: on a CPU in huge pages, where the system has them to give.

Decoding reads every weight once a step. With pages of 4 KiB the hardware stops reading ahead at each of their ends; in
huge pages one row times a weight took three quarters of the time.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from math import prod

import torch
from torch import Tensor

_CHUNK_BYTES = 64 * 2**20
_ALIGNMENT = 64


class Arena:
    """Hands out tensors one behind the other, to several threads. A chunk lives as long as the last tensor in it.

    | weight | weight | ... | untouched, so no memory |     chunk, one mapping
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=self._device)
        with self._lock:
            return self._take(prod(shape) * dtype.itemsize).view(dtype).view(shape)

    def _take(self, num_bytes: int) -> Tensor:
        if self._used + num_bytes > self._chunk.numel():
            self._chunk = _map(max(num_bytes, _CHUNK_BYTES))
            self._used = 0
        taken = self._chunk[self._used : self._used + num_bytes]
        self._used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return taken


def _map(num_bytes: int) -> Tensor:
    memory = mmap.mmap(-1, num_bytes)
    with contextlib.suppress(OSError, AttributeError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
