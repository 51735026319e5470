"""Attention over the block pool: one interface, plain torch as the reference on any device, csrc on a CPU.

    begin(chunks)            once a step: where each token stands and where its KV lies
    run(layer, qkv) -> out   once a layer: rotate, write K and V of the step's tokens to the pool, attend

Rows of qkv are the tokens of all chunks in order: a chunk may be a whole prompt, a piece of one, or a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Rope
from trtdisagg.engine.rotary import rotate
from trtdisagg.engine.step import Chunk


class Attention(Protocol):
    def begin(self, chunks: Sequence[Chunk]) -> None:
        """Set the step that the following `run` are about."""

    def run(self, layer: int, qkv: Tensor) -> Tensor:
        """Compute one layer.

        :param qkv: [tokens, (num_heads + 2 num_kv_heads) head_dim]: queries, keys and values of a token side by side.
        :return: [tokens, num_heads head_dim], of the type of `qkv`.
        """


class NativeAttention:
    """The csrc kernels: blocks are read where they lie, K and V once for all query heads that share them."""

    def __init__(self, backend: Backend, pool: KvPool, tables: Rope, *, num_heads: int) -> None:
        assert backend.csrc is not None
        shape = pool.shape
        self._dtype = backend.dtype
        self._is_bf16 = backend.is_bf16
        self._row_width = (num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        self._out_width = num_heads * shape.head_dim
        self._kernel = backend.csrc.PagedAttention(
            pool.address,
            num_blocks=pool.num_blocks,
            num_layers=shape.num_layers,
            num_heads=num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            tokens_per_block=shape.tokens_per_block,
            pool_is_bf16=pool.dtype == torch.bfloat16,
            cosines=tables.cosines,
            sines=tables.sines,
            scale=shape.head_dim**-0.5,
            workers=backend.workers,
        )

    def begin(self, chunks: Sequence[Chunk]) -> None:
        tables = accumulate((len(c.blocks) for c in chunks), initial=0)
        rows = [(len(c.tokens), c.start, table) for c, table in zip(chunks, tables, strict=False)]
        blocks = np.concatenate([np.asarray(c.blocks, np.int32) for c in chunks])
        self._kernel.begin(np.asarray(rows, np.int64), blocks)

    def run(self, layer: int, qkv: Tensor) -> Tensor:
        num_rows, width = qkv.shape
        assert width == self._row_width
        assert qkv.dtype == self._dtype
        assert qkv.is_contiguous()
        out = qkv.new_empty(num_rows, self._out_width)
        self._kernel.run(layer, qkv.data_ptr(), out.data_ptr(), num_rows, self._is_bf16)
        return out


class TorchAttention:
    """Gathers the blocks of each chunk into one tensor and hands it to torch. Slow, short, and runs anywhere."""

    def __init__(self, pool: KvPool, tables: Rope, *, num_heads: int) -> None:
        self._pool = pool
        self._tables = tables
        self._num_heads = num_heads
        self._chunks: Sequence[Chunk] = []

    def begin(self, chunks: Sequence[Chunk]) -> None:
        per_block = self._pool.shape.tokens_per_block
        device = self._pool.device
        positions = [np.arange(c.start, c.start + len(c.tokens)) for c in chunks]
        blocks = [np.asarray(c.blocks)[p // per_block] for c, p in zip(chunks, positions, strict=True)]
        where = torch.from_numpy(np.concatenate(positions)).to(device)
        self._chunks = chunks
        self._blocks = torch.from_numpy(np.concatenate(blocks)).to(device)
        self._slots = where % per_block
        self._cosines, self._sines = self._tables.cosines[where], self._tables.sines[where]

    def run(self, layer: int, qkv: Tensor) -> Tensor:
        shape = self._pool.shape
        heads = qkv.view(qkv.shape[0], -1, shape.head_dim)
        queries, keys, values = heads.split([self._num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1)
        queries, keys = (rotate(x, self._cosines, self._sines) for x in (queries, keys))
        blocks = self._pool.tensor[:, layer]
        blocks[self._blocks, :, 0, self._slots] = keys.to(blocks.dtype)
        blocks[self._blocks, :, 1, self._slots] = values.to(blocks.dtype)
        pieces = queries.split([len(c.tokens) for c in self._chunks])
        outs = [self._attend(blocks, chunk, piece) for chunk, piece in zip(self._chunks, pieces, strict=True)]
        return torch.cat(outs).flatten(1)

    def _attend(self, blocks: Tensor, chunk: Chunk, queries: Tensor) -> Tensor:
        """
        :param blocks: [num_blocks, kv_heads, 2, tokens_per_block, head_dim], one layer of the pool.
        :param queries: [tokens, heads, head_dim]
        """
        end = chunk.start + len(chunk.tokens)
        table = torch.tensor(chunk.blocks, device=blocks.device)
        kv = blocks[table].permute(2, 1, 0, 3, 4).flatten(2, 3)[:, :, :end].to(queries.dtype)
        positions = torch.arange(end, device=blocks.device)
        visible = positions <= positions[chunk.start :, None]
        out = scaled_dot_product_attention(
            queries.transpose(0, 1)[None], kv[0][None], kv[1][None], attn_mask=visible, enable_gqa=True
        )
        return out[0].transpose(0, 1)


def make_attention(backend: Backend, pool: KvPool, tables: Rope, *, num_heads: int) -> Attention:
    """The fastest there is for the device.

    :param pool: on the device of `backend`, and open while the attention is used.
    """
    if backend.csrc:
        return NativeAttention(backend, pool, tables, num_heads=num_heads)
    return TorchAttention(pool, tables, num_heads=num_heads)
