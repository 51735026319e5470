"""Tensors between ranks that compute on the CPUs of one host: through memory that all of them have mapped.

The memory is a memfd of rank 0, opened by the others through `/proc/PID/fd`: no name, no port, out of reach for other
users, and gone with its last holder. What happens in it is the extension's `SharedRanks`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from trtdisagg.cache.native import extension
from trtdisagg.engine.gang.trial import try_all
from trtdisagg.errors import StartupError
from trtdisagg.protocol.parallel import Parallel

WAIT_TIMEOUT_S = 600.0
"""Longer than any step: who is frozen is found by its silence, and who is gone by the end of its connection."""


class SharedRanks:
    """One rank among the others of its server. Tensors are float32 or bfloat16.

    :param fd: of the memory, which is taken over.
    """

    def __init__(self, fd: int, parallel: Parallel, rank: int) -> None:
        self.parallel = parallel
        self.rank = rank
        self._fd = fd
        self.native: Any = None
        """The extension's, once we are connected."""

    def connect(self) -> None:
        """Meet the other ranks, and pass something on every way: what cannot work fails here, and not in a request.

        :raises StartupError: when not all of them come, or there is no memory.
        """
        csrc = extension()
        parallel = self.parallel
        if csrc is None:
            raise StartupError(
                f"rank {self.rank} has not the C++ extension that rank 0 has: install the same everywhere"
            )
        try:
            self.native = csrc.SharedRanks(
                self._fd, parallel.num_ranks, parallel.tp_size, self.rank, timeout_s=WAIT_TIMEOUT_S
            )
            try_all(self, torch.device("cpu"))
        except RuntimeError as e:
            raise StartupError(f"rank {self.rank} cannot reach the other ranks of its server: {e}") from e
        finally:
            os.close(self._fd)  # all have mapped it, or nobody ever will

    def end(self) -> None:
        """Nobody waits any more, on any rank: one of them is gone. From any thread."""
        if self.native is not None:
            self.native.end()

    def add_up(self, x: Tensor) -> None:
        """Replace x by its sum over the ranks of this stage, equal to the bit on all of them."""
        self.native.add_up(x.data_ptr(), x.numel(), _is_bf16(x))

    def gather(self, x: Tensor, num_rows: list[int]) -> Tensor:
        """Put together the rows that each rank of this stage has."""
        row_bytes = x.shape[1] * x.element_size()
        rows = x.new_empty(sum(num_rows), x.shape[1])
        self.native.gather(x.data_ptr(), rows.data_ptr(), [n * row_bytes for n in num_rows])
        return rows

    def pass_on(self, x: Tensor) -> None:
        """Give x to the rank with our `tp_rank` in the next stage."""
        self.native.send(x.data_ptr(), x.nbytes)

    def take_over(self, x: Tensor) -> None:
        """Fill x with what the rank with our `tp_rank` in the stage before passes on."""
        self.native.receive(self.rank - self.parallel.tp_size, x.data_ptr(), x.nbytes)

    def to_first(self, x: Tensor) -> None:
        """Rank 0 of the server gets x from rank 0 of the last stage."""
        if self.rank == 0:
            self.native.receive(self.parallel.num_ranks - self.parallel.tp_size, x.data_ptr(), x.nbytes)
        else:
            self.native.send(x.data_ptr(), x.nbytes)


def make_memory(num_ranks: int) -> int:
    """
    :return: the descriptor of memory that so many ranks may share; the extension is there.
    :raises StartupError: when there is none.
    """
    csrc = extension()
    assert csrc is not None
    fd = os.memfd_create("trtdisagg-ranks", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, csrc.SharedRanks.num_bytes(num_ranks))
    except OSError as e:
        os.close(fd)
        raise StartupError(f"there is no memory for what the ranks tell each other: {e.strerror}") from e
    return fd


def _is_bf16(x: Tensor) -> bool:
    assert x.dtype in (torch.float32, torch.bfloat16)
    return bool(x.dtype == torch.bfloat16)
