"""What the measured pools hold: each row of the KV says of which layer, head, K or V and token it is.

Only the layout's numbers go in, none of the arithmetic that moves KV: so it finds out what that gets wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from trtdisagg.cache.pool import KvPool
from trtdisagg.protocol.handover import KvLayout


class Content:
    """The KV of one prompt, as a rank has it.

    :param pool: of that rank, with rows of a multiple of four bytes.
    """

    def __init__(self, layout: KvLayout, rank: int, pool: KvPool) -> None:
        self._pool = pool.tensor.view(torch.int32)
        parallel = layout.parallel
        layers = parallel.layers(parallel.pp_rank(rank), layout.num_layers)
        heads = parallel.kv_heads(parallel.tp_rank(rank), layout.num_kv_heads)
        in_layer = torch.arange(heads.start, heads.stop)[:, None] * 2 + torch.arange(2)
        pieces = torch.arange(layers.start, layers.stop)[:, None, None] * 2 * layout.num_kv_heads + in_layer
        self._pieces = pieces[..., None, None] << 16
        self._tokens_per_block = layout.tokens_per_block

    def write(self, blocks: Sequence[int]) -> None:
        """
        :param blocks: in token order.
        """
        for block, rows in self._rows(blocks):
            self._pool[block] = rows

    def wrong(self, blocks: Sequence[int]) -> str | None:
        """What is not as `write` would have left it."""
        for index, (block, rows) in enumerate(self._rows(blocks)):
            if not bool((self._pool[block] == rows).all()):
                return f"what arrived is not what was sent: block {index} of {len(blocks)}"
        return None

    def wipe(self) -> None:
        self._pool.fill_(-1)

    def _rows(self, blocks: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Each block, and [layers, heads, k|v, token, 1]: what stands in its rows."""
        for index, block in enumerate(blocks):
            tokens = torch.arange(self._tokens_per_block) + index * self._tokens_per_block
            yield block, (self._pieces | tokens[:, None]).to(torch.int32)
