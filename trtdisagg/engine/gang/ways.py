"""How tensors travel between the ranks of a server: rank 0 chooses and opens the way, the others come to where it is.

Shared memory between CPUs of one host; a step of a small model adds up 60 times, and gloo spends most of each on waking
threads. torch.distributed on CUDA, across hosts, and where the extension is missing.
"""

from __future__ import annotations

import os
from typing import Protocol

import torch

from trtdisagg.cache.native import extension
from trtdisagg.engine.gang.messages import SharedMemory, Store
from trtdisagg.engine.gang.shared_ranks import SharedRanks, make_memory
from trtdisagg.engine.gang.torch_ranks import LOOPBACK, TorchRanks, open_store, reach_store
from trtdisagg.engine.http.listen import reachable, resolve
from trtdisagg.engine.ranks import Ranks
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec


class Way(Ranks, Protocol):
    """`Ranks` with a beginning and an end."""

    def connect(self) -> None:
        """Meet the other ranks, who do the same.

        :raises StartupError: when not all of them can be reached.
        """

    def end(self) -> None:
        """A rank is gone: nobody shall wait for it. From any thread."""


def own_host(spec: EngineSpec) -> str:
    """Where the other ranks reach this one for tensors."""
    return LOOPBACK if spec.gang_address is None else resolve(reachable(spec.host))[1][0]


def open_way(spec: EngineSpec) -> tuple[Way, SharedMemory | Store]:
    """Rank 0's end, and what the others have to know."""
    parallel, device = spec.parallel, torch.device(spec.device)
    if device.type == "cpu" and spec.gang_address is None and extension():
        fd = make_memory(parallel.num_ranks)
        return SharedRanks(fd, parallel, 0), SharedMemory(f"/proc/{os.getpid()}/fd/{fd}")
    store, where = open_store(own_host(spec), parallel.num_ranks)
    return TorchRanks(store, parallel, 0, device, own_host(spec)), where


def reach_way(spec: EngineSpec, where: SharedMemory | Store) -> Way:
    """Another rank's end.

    :raises StartupError: when it is not to be found.
    """
    if isinstance(where, Store):
        store = reach_store(where, spec.parallel.num_ranks)
        return TorchRanks(store, spec.parallel, spec.rank, torch.device(spec.device), own_host(spec))
    try:
        fd = os.open(where.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise StartupError(f"the memory of rank 0 of {spec.name} cannot be opened: {e.strerror or e}") from e
    return SharedRanks(fd, spec.parallel, spec.rank)
