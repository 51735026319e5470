"""What a mover is measured against: the same bytes by the transport alone, and copied within memory.

All that can be done before is done before: planning, descriptors, threads.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.measure.bare_nixl import BareNixl
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import Link, Transport, open_transports
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import RankMemory

Work = Callable[[], None]
_SCRATCH_BYTES = 128 << 20
"""Several times the caches."""


class Bare(Protocol):
    """A way into a pool beside the mover's."""

    def connect(self, rank: int, memory: RankMemory) -> None:
        """
        :raises HandoverError: when this rank of the peer cannot be reached.
        """

    def prepare(self, planned: Mapping[int, Runs]) -> Work:
        """What reads these runs of these ranks, all ranks at once as far as the transport can."""


@contextlib.contextmanager
def open_bare(name: str, pool: KvPool, agent: str) -> Iterator[Bare]:
    """
    :param name: of a transport.
    :param agent: our name in it, not that of the mover's.
    """
    with contextlib.ExitStack() as stack:
        if name in ("nixl", "ucx"):
            yield stack.enter_context(contextlib.closing(BareNixl(pool, agent)))
        else:
            [transport] = stack.enter_context(open_transports([name], pool, incarnation=agent, one_host=True))
            yield stack.enter_context(contextlib.closing(BareTransport(transport)))


class BareTransport:
    """One of our transports, without a mover. Its links are read at once, by a thread each."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._threads = ThreadPoolExecutor(thread_name_prefix="bare")
        self._links: dict[int, Link] = {}

    def connect(self, rank: int, memory: RankMemory) -> None:
        for one in memory.memory:
            if isinstance(one, self._transport.memory_type):
                self._links[rank] = self._transport.connect(one)
                return
        raise HandoverError(f"rank {rank} there does not offer {self._transport.memory_type.__name__}")

    def prepare(self, planned: Mapping[int, Runs]) -> Work:
        (first, its_runs), *others = [(self._links[rank], runs) for rank, runs in planned.items()]

        def work() -> None:
            reads = [self._threads.submit(link.read, runs) for link, runs in others]
            first.read(its_runs)
            for read in reads:
                read.result()

        return work

    def close(self) -> None:
        self._threads.shutdown()
        for link in self._links.values():
            link.close()


def in_one_piece(planned: Mapping[int, Runs]) -> dict[int, Runs]:
    """As many bytes of each rank, one piece behind the other in our pool."""
    pieces, offset = {}, 0
    for rank, runs in planned.items():
        num_bytes = int(runs[:, 2].sum())
        pieces[rank] = np.array([[offset, 0, num_bytes]], np.int64)
        offset += num_bytes
    return pieces


class PlainCopy:
    """Copies into a pool from memory of our own."""

    def __init__(self, pool: KvPool) -> None:
        self._to = pool.address
        self._scratch = np.ones(min(pool.num_bytes, _SCRATCH_BYTES), np.uint8)

    def prepare(self, num_bytes: int) -> Work:
        from_, size = self._scratch.ctypes.data, len(self._scratch)
        parts = [(offset, min(size, num_bytes - offset)) for offset in range(0, num_bytes, size)]

        def work() -> None:
            for offset, part_bytes in parts:
                ctypes.memmove(self._to + offset, from_, part_bytes)

        return work
