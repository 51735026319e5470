"""The memory that holds a rank's KV blocks: one allocation, and what a peer needs to read it.

    tensor   [block]                                   one contiguous record of `block_bytes`, the unit of transfer
               [layer]                                 so a range of layers is one run of bytes
                 [kv_head]                             and so is a range of heads of a layer, its K with its V
                   [k|v][token][head_dim]

    memfd    | block 0 | ... | block n-1 | pattern | sink | staging | pad | nonce ... |      on a CPU
             ^ address                   |                          |     ^ nonce_offset(region.num_bytes), its own page
             '--------- tensor ----------'-- beside the blocks: protocol.memory.Region

On a host the pool is a memfd: a process of the same host and user maps it through `/proc/PID/fd/FD`, nothing lies in
/dev/shm, and the kernel takes it back with its last holder. Pages count only once they are touched; the first touch
takes ten times as long as a copy, so whoever moves KV touches ahead of it (`warm_up`).

It does not know which block belongs to whom (`blocks`) nor how bytes travel (`transports`).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
from types import TracebackType
from typing import Self

import psutil
import torch

from trtdisagg.cache.layout import block_bytes
from trtdisagg.errors import StartupError
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.memory import TEST_BYTES, Region

NONCE_BYTES = 16
_WARM_SLICE_BYTES = 1 << 20
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_libc = ctypes.CDLL(None)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class KvPool:
    """The blocks of one rank, on the host or on a CUDA device. Open from `open()` to `close()`.

    :param shape: what one rank holds; `num_layers` and `num_kv_heads` are the rank's own.
    :param device: `cpu`, or `cuda` with or without an index.
    :param staging_bytes: what lies beside the blocks for KV that is packed on its way.
    """

    tensor: torch.Tensor
    """[num_blocks, num_layers, num_kv_heads, 2, tokens_per_block, head_dim], its content undefined at first."""

    memory: torch.Tensor
    """The whole region, as bytes."""

    def __init__(self, shape: KvShape, num_blocks: int, device: str = "cpu", *, staging_bytes: int = 0) -> None:
        assert num_blocks > 0
        self.shape = shape
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        self.dtype = DTYPES[shape.dtype]
        self.block_bytes = block_bytes(shape)
        self.num_bytes = num_blocks * self.block_bytes
        """Of the blocks."""
        self.region = Region(pool_bytes=self.num_bytes, staging_bytes=staging_bytes)
        self.fd: int | None = None
        """The memfd; None on a device."""
        self.nonce = b""
        """Lies at `nonce_offset(region.num_bytes)` of the memfd: who reads it there has mapped this very pool."""
        self._warm_bytes = 0

    @property
    def address(self) -> int:
        """Where block 0 begins, in this process or on the device."""
        return int(self.tensor.data_ptr())

    def open(self) -> None:
        """Allocate.

        :raises StartupError: when the memory is not there.
        """
        s, r = self.shape, self.region
        self.memory = self._open_host() if self.device.type == "cpu" else self._open_device()
        self.memory[r.pattern_offset : r.sink_offset] = pattern().to(self.device)
        flat = self.memory[: self.num_bytes].view(self.dtype)
        self.tensor = flat.view(self.num_blocks, s.num_layers, s.num_kv_heads, 2, s.tokens_per_block, s.head_dim)

    def close(self) -> None:
        """Give the memory back; a view of the tensor that is still held elsewhere keeps it until it goes."""
        self.tensor = self.memory = torch.empty(0)
        self._warm_bytes = 0
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def warm_up(self, num_bytes: int) -> None:
        """Have the kernel give the first so many bytes of the blocks their pages, which may take a second."""
        begin, end = self._warm_bytes, min(nonce_offset(num_bytes), self.num_bytes // mmap.PAGESIZE * mmap.PAGESIZE)
        if self.fd is not None and end > begin:
            self._warm_bytes = end
            # In slices, lest others of the process wait long for a change of its address space. An older kernel does
            # not know this, and then pages come one by one as they are touched.
            for at in range(begin, end, _WARM_SLICE_BYTES):
                num = min(_WARM_SLICE_BYTES, end - at)
                _libc.madvise(ctypes.c_void_p(self.address + at), ctypes.c_size_t(num), _POPULATE_WRITE)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open_host(self) -> torch.Tensor:
        # A memfd of any size can be mapped; without this the process would be killed later, when it fills.
        available = psutil.virtual_memory().available
        if self.num_bytes > available:
            raise StartupError(self._too_large(f"{_mib(available)} are available on this host"))
        offset = nonce_offset(self.region.num_bytes)
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.fd = os.memfd_create("trtdisagg-kv", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, offset + mmap.PAGESIZE)
            memory = mmap.mmap(self.fd, offset + mmap.PAGESIZE)
        except OSError as e:
            self.close()
            raise StartupError(self._too_large(str(e))) from e
        memory[offset : offset + NONCE_BYTES] = self.nonce
        # The mapping ends with its last reference, which is the tensor's: closing it by hand would pull it from under
        # views that live on, for torch keeps the object but not its buffer.
        return torch.frombuffer(memory, dtype=torch.uint8, count=self.region.num_bytes)

    def _open_device(self) -> torch.Tensor:
        try:
            return torch.empty(self.region.num_bytes, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError as e:
            free, _ = torch.cuda.mem_get_info(self.device)
            raise StartupError(self._too_large(f"{_mib(free)} are free on {self.device}")) from e

    def _too_large(self, why: str) -> str:
        return (
            f"the KV pool of {self.num_blocks} blocks x {self.block_bytes} bytes = {_mib(self.num_bytes)} "
            f"cannot be allocated: {why}; lower kv_cache_config.max_tokens or free_gpu_memory_fraction"
        )


def pattern() -> torch.Tensor:
    """What everybody keeps beside the blocks for others to read: no two pages of it are alike."""
    values = torch.arange(TEST_BYTES // 4, dtype=torch.int32) * -1640531527  # 2^32 / golden ratio: an odd number
    return values.view(torch.uint8)


def nonce_offset(num_bytes: int) -> int:
    """Where the nonce lies in the memfd of a region of `num_bytes`: on the first page behind it."""
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
