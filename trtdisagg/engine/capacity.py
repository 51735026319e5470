"""How many blocks a request must find free before it is admitted: the two policies of TensorRT-LLM.

`guaranteed_no_evict`   all that it can ever need, for each of its choices. Whatever runs also ends, without a pause.
`max_utilization`       what its tokens fill now, and a block more for each that runs, so that these go on a while.
                        When there are none left, whoever came last goes back into the queue and is computed anew later.
"""

from __future__ import annotations

from typing import Protocol

from trtdisagg.engine.limits import Limits, num_blocks_ever
from trtdisagg.engine.sequence import Sequence


class Capacity(Protocol):
    num_spare_each: int
    """So many blocks must be left for each that runs."""

    def num_blocks(self, sequence: Sequence) -> int:
        """Blocks to have, or to be kept free for it, when it is admitted."""


class GuaranteedNoEvict:
    num_spare_each = 0

    def __init__(self, limits: Limits) -> None:
        self._tokens_per_block = limits.tokens_per_block

    def num_blocks(self, sequence: Sequence) -> int:
        return num_blocks_ever(sequence.request, self._tokens_per_block, 1 + len(sequence.siblings))


class MaxUtilization:
    num_spare_each = 1

    def __init__(self, limits: Limits) -> None:
        self._tokens_per_block = limits.tokens_per_block

    def num_blocks(self, sequence: Sequence) -> int:
        return -(-len(sequence.tokens) // self._tokens_per_block)


def capacity_policy(limits: Limits) -> Capacity:
    return GuaranteedNoEvict(limits) if limits.scheduler_policy == "guaranteed_no_evict" else MaxUtilization(limits)
