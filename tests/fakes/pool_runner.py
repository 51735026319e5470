"""A model runner without a model whose "KV" lies in real pools, of all ranks of a server: it reads what was moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from fakes.runner import FakeRunner, Place

from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.shares import holders
from trtdisagg.protocol.handover import KvLayout


class PoolRunner(FakeRunner):
    """Writes the token of a position to every layer, head and value of it."""

    def __init__(self, layout: KvLayout, pools: Sequence[KvPool]) -> None:
        super().__init__(layout.tokens_per_block)
        self.kv = PoolKv(layout, pools)  # type: ignore[assignment]


class PoolKv:
    """What `FakeRunner` wants of its dictionary."""

    def __init__(self, layout: KvLayout, pools: Sequence[KvPool]) -> None:
        arrays = [pool.tensor.numpy() for pool in pools]
        self._arrays = [[arrays[r] for r in holders(layout, dp_rank)] for dp_rank in range(layout.parallel.dp_size)]

    def __setitem__(self, place: Place, token: int) -> None:
        dp_rank, block, offset = place
        for array in self._arrays[dp_rank]:
            array[block, :, :, :, offset] = token

    def get(self, place: Place, default: int) -> int:
        """The token, where all ranks have it everywhere."""
        dp_rank, block, offset = place
        values = np.concatenate([array[block, :, :, :, offset].reshape(-1) for array in self._arrays[dp_rank]])
        return int(values[0]) if (values == values[0]).all() else default

    def update(self, items: Iterable[tuple[Place, int]]) -> None:
        for place, token in items:
            self[place] = token
