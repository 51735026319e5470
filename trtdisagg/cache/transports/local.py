"""KV between two servers of one host: the peer's pool is mapped read-only and copied from.

The pool is a memfd that its owner keeps open; any process of the same user opens it through `/proc/PID/fd/FD`. The
mapping outlives the owner, so a copy is never cut off, and what was read from a server that died is thrown away by the
transceiver.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import ClassVar

import numpy as np

from trtdisagg.cache.copying import copy_runs
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.pool import KvPool, nonce_offset
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import LocalMemory, Memory

WARM_BYTES = 128 << 20
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


class LocalLink:
    """A peer's pool in our address space."""

    def __init__(self, pool: KvPool, mapping: mmap.mmap, num_bytes: int) -> None:
        self._pool = pool
        self._mapping = mapping
        self._num_bytes = num_bytes
        self._address = int(np.frombuffer(mapping, np.uint8).ctypes.data)

    def read(self, runs: Runs) -> None:
        try:
            copy_runs((self._pool.address, self._pool.region.num_bytes), (self._address, self._num_bytes), runs)
        except IndexError as e:
            raise HandoverError(f"the ticket names blocks outside the pool: {e}") from e

    def write(self, runs: Runs) -> None:
        raise NotImplementedError  # the peer's memory is mapped read-only

    def abort(self) -> None:
        """A copy within memory ends by itself."""

    def close(self) -> None:
        self._mapping.close()


class LocalTransport:
    """Our pool for peers of this host, and theirs for us.

    :param pool: open, on the host, and open until `close`.
    """

    memory_type: ClassVar[type[Memory]] = LocalMemory
    can_write: ClassVar[bool] = False

    def __init__(self, pool: KvPool) -> None:
        assert pool.fd is not None, "the pool is not on the host"
        self.pool = pool

    def describe(self) -> LocalMemory:
        pool = self.pool
        assert pool.fd is not None
        return LocalMemory(pid=os.getpid(), fd=pool.fd, region=pool.region, nonce=pool.nonce)

    def connect(self, memory: Memory) -> LocalLink:
        assert isinstance(memory, LocalMemory)
        path = f"/proc/{memory.pid}/fd/{memory.fd}"
        try:
            mapping = _map(path, nonce_offset(memory.region.num_bytes) + mmap.PAGESIZE)
        except (OSError, ValueError) as e:
            raise HandoverError(f"{path} cannot be mapped ({e}): another host, another user, or it has ended") from e
        offset = nonce_offset(memory.region.num_bytes)
        if mapping[offset : offset + len(memory.nonce)] != memory.nonce:
            mapping.close()
            raise HandoverError(f"{path} is not the pool meant: another host, or another process by now")
        _warm_up(mapping, min(WARM_BYTES, memory.region.pool_bytes))
        return LocalLink(self.pool, mapping, memory.region.num_bytes)

    def set_serving(self, is_serving: bool) -> None:
        """The kernel serves."""

    def close(self) -> None:
        """The pool is its owner's."""


def _warm_up(mapping: mmap.mmap, num_bytes: int) -> None:
    """Map the first pages of the peer's blocks, which it uses first, so that the first transfer finds them there."""
    with suppress(OSError):  # an older kernel maps them one by one as they are read
        mapping.madvise(_POPULATE_READ, 0, num_bytes)


def _map(path: str, num_bytes: int) -> mmap.mmap:
    # Whatever has that number in a wrong process, opening it must not block or make it our terminal.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return mmap.mmap(fd, num_bytes, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
