"""What the ranks of a server say to each other while they compute a step.

All ranks of a server compute every step, in the same order, and each of these calls is made by all ranks concerned or
by none. One that cannot go on ends its process: then the whole server starts again.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from trtdisagg.protocol.parallel import Parallel


class Ranks(Protocol):
    """The other ranks, as one of them sees them. Tensors are on the device of the model, and contiguous."""

    parallel: Parallel
    rank: int

    def add_up(self, x: Tensor) -> None:
        """Replace x by its sum over the ranks of this stage: the same, bit for bit, on all of them. (Each chooses the
        experts of a token by itself.)"""

    def gather(self, x: Tensor, num_rows: list[int]) -> Tensor:
        """Put together the rows that each rank of this stage has.

        :param x: [num_rows[tp_rank], width]
        :return: [sum(num_rows), width], in the order of the ranks.
        """

    def pass_on(self, x: Tensor) -> None:
        """Give x to the rank with our `tp_rank` in the next stage."""

    def take_over(self, x: Tensor) -> None:
        """Fill x with what the rank with our `tp_rank` in the stage before passes on."""

    def to_first(self, x: Tensor) -> None:
        """Rank 0 of the server gets x from rank 0 of the last stage. Called by these two alone, and not when they are
        one; x is what is given on the one side and filled on the other."""
