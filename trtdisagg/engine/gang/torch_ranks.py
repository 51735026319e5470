"""Tensors between the ranks of a server by torch.distributed: NCCL on CUDA, gloo on a CPU without the extension.

Its process groups are made directly, never as torch's default one: a process may be rank 0 of several servers, and
nothing of theirs is process-wide. gloo is held to the address of each rank, the loopback's where all are on one host;
NCCL chooses its interfaces itself, or by the user's NCCL_SOCKET_IFNAME. Neither asks who connects: the network between
the hosts of one server has to be trusted.
"""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trtdisagg.engine.gang.messages import Store
from trtdisagg.engine.gang.trial import try_all
from trtdisagg.errors import StartupError
from trtdisagg.net import listen_anywhere
from trtdisagg.protocol.parallel import Parallel

CONNECT_TIMEOUT_S = 60.0
COLLECTIVE_TIMEOUT_S = 600.0
"""Longer than any step: who is frozen is found by its silence, and who is gone by the end of its connection."""

LOOPBACK = "127.0.0.1"


def open_store(host: str, num_ranks: int) -> tuple[Any, Store]:
    """The store in which ranks find each other, in this process; it lives as long as it is kept.

    :param host: address to listen on.
    :return: the store, and where the other ranks reach it.
    """
    listener = listen_anywhere(host)
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        host,
        port,
        num_ranks,
        is_master=True,
        timeout=datetime.timedelta(seconds=CONNECT_TIMEOUT_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),  # otherwise it listens on all addresses
    )
    return store, Store(host=host, port=port)


def reach_store(where: Store, num_ranks: int) -> Any:
    """The store of rank 0."""
    timeout = datetime.timedelta(seconds=CONNECT_TIMEOUT_S)
    return dist.TCPStore(where.host, where.port, num_ranks, is_master=False, timeout=timeout, wait_for_workers=False)


class TorchRanks:
    """One rank among the others of its server.

    :param store: the one that all ranks share.
    :param device: of the tensors.
    :param host: address of this rank.
    """

    def __init__(self, store: Any, parallel: Parallel, rank: int, device: torch.device, host: str = LOOPBACK) -> None:
        self.parallel = parallel
        self.rank = rank
        self._tp_rank = parallel.tp_rank(rank)
        self._stage: Any = None
        self._world: Any = None
        self._store = store
        self._device = device
        self._host = host

    def connect(self) -> None:
        """Meet the other ranks, and pass something on every way: what cannot work fails here, and not in a request.

        :raises StartupError: when not all of them can be reached in time.
        """
        tp_size, num_ranks = self.parallel.tp_size, self.parallel.num_ranks
        pp_rank = self.parallel.pp_rank(self.rank)
        try:
            if self.parallel.pp_size > 1:
                self._world = self._group("world", self.rank, num_ranks)
            if tp_size > 1:
                self._stage = self._group(f"stage {pp_rank}", self._tp_rank, tp_size)
            try_all(self, self._device)
        except RuntimeError as e:
            raise StartupError(f"rank {self.rank} cannot reach the other ranks of its server: {e}") from e

    def end(self) -> None:
        """Nothing to do: a group notices by itself when a connection of it has ended."""

    def add_up(self, x: Tensor) -> None:
        """Replace x by its sum over the ranks of this stage."""
        if self._stage is not None:
            self._stage.allreduce([x]).wait()

    def gather(self, x: Tensor, num_rows: list[int]) -> Tensor:
        """Put together the rows that each rank of this stage has."""
        if self._stage is None:
            return x
        # Not every backend takes parts of different sizes, so all are as long as the longest.
        longest = max(num_rows)
        mine = x.new_zeros(longest, x.shape[1])
        mine[: len(x)] = x
        parts = [torch.empty_like(mine) for _ in num_rows]
        self._stage.allgather([parts], [mine]).wait()
        return torch.cat([part[:n] for part, n in zip(parts, num_rows, strict=True)])

    def pass_on(self, x: Tensor) -> None:
        """Give x to the rank with our `tp_rank` in the next stage."""
        self._world.send([x], self.rank + self.parallel.tp_size, 0).wait()

    def take_over(self, x: Tensor) -> None:
        """Fill x with what the rank with our `tp_rank` in the stage before passes on."""
        self._world.recv([x], self.rank - self.parallel.tp_size, 0).wait()

    def to_first(self, x: Tensor) -> None:
        """Rank 0 of the server gets x from rank 0 of the last stage."""
        if self.rank == 0:
            self._world.recv([x], self.parallel.num_ranks - self.parallel.tp_size, 0).wait()
        else:
            self._world.send([x], 0, 0).wait()

    def _group(self, name: str, rank: int, size: int) -> Any:
        store = dist.PrefixStore(name, self._store)
        timeout = datetime.timedelta(seconds=COLLECTIVE_TIMEOUT_S)
        if self._device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timeout
            return dist.ProcessGroupNCCL(store, rank, size, options)
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._host)]
        options._timeout = timeout
        options._threads = 1
        return dist.ProcessGroupGloo(store, rank, size, options)
