"""Attention over the block pool on a CUDA device: how the kernels are launched for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.cuda import kernels
from trtdisagg.engine.cuda.batch import Batch
from trtdisagg.engine.models.decoder import Decoder, Layer
from trtdisagg.engine.step import Chunk

_LEAST_ROWS = 16
"""The smallest matrix that tensor cores multiply."""
_MAX_ROWS = 64
_MAX_SPLITS = 32
_MAX_VALUES = 64 * 128
"""Of keys, or of values, in one pass: what fits beside the queries into a multiprocessor's shared memory."""


class PagedAttention:
    """
    :param pool: open while the attention is used.
    """

    def __init__(self, decoder: Decoder, pool: KvPool) -> None:
        self._decoder = decoder
        self._pool = pool
        self._group = decoder.num_heads // decoder.num_kv_heads
        shape = pool.shape
        self._value_offset = shape.tokens_per_block * shape.head_dim
        self._head_stride = 2 * self._value_offset
        self._block_stride = shape.num_layers * shape.num_kv_heads * self._head_stride
        self._num_processors = 1
        if pool.device.type == "cuda":
            self._num_processors = torch.cuda.get_device_properties(pool.device).multi_processor_count

    def tile_tokens(self, chunks: Sequence[Chunk]) -> int:
        """How many tokens of these chunks make a tile; 1: all chunks have one."""
        return 1 if all(len(c.tokens) == 1 for c in chunks) else max(1, _MAX_ROWS // self._group)

    def run(self, layer: Layer, index: int, qkv: Tensor, batch: Batch) -> Tensor:
        """Compute one layer: rotate, write K and V of the step's tokens, attend.

        :param qkv: [tokens, (num_heads + 2 num_kv_heads) head_dim], contiguous; its queries are changed in place.
        :return: [tokens, num_heads head_dim]
        """
        assert qkv.is_contiguous()
        pool = self._pool.tensor[:, index]
        self._write(layer, qkv, pool, batch)
        return self._attend(layer, qkv, pool, batch)

    def _write(self, layer: Layer, qkv: Tensor, pool: Tensor, batch: Batch) -> None:
        decoder, rope = self._decoder, layer.rope
        unused = batch.positions
        norms = (layer.q_norm, layer.k_norm)
        assert all(norms) or not any(norms), "queries and keys are normalized both or neither"
        kernels.rotate_and_store[(qkv.shape[0], decoder.num_heads + 2 * decoder.num_kv_heads)](
            qkv,
            pool,
            batch.positions,
            batch.blocks,
            rope.cosines if rope else unused,
            rope.sines if rope else unused,
            layer.q_norm.weight if layer.q_norm else unused,
            layer.k_norm.weight if layer.k_norm else unused,
            layer.q_norm.eps if layer.q_norm else 0.0,
            self._block_stride,
            self._head_stride,
            self._value_offset,
            NUM_HEADS=decoder.num_heads,
            NUM_KV_HEADS=decoder.num_kv_heads,
            HEAD_DIM=decoder.head_dim,
            HALF=next_power_of_2(decoder.head_dim // 2),
            TOKENS_PER_BLOCK=self._pool.shape.tokens_per_block,
            HAS_ROPE=rope is not None,
            HAS_NORM=layer.q_norm is not None,
            num_warps=1,
        )

    def _attend(self, layer: Layer, qkv: Tensor, pool: Tensor, batch: Batch) -> Tensor:
        decoder = self._decoder
        num_tokens, num_tiles = qkv.shape[0], batch.tiles.shape[0]
        dim = next_power_of_2(decoder.head_dim)
        num_splits = self._num_splits(num_tiles) if batch.tile_tokens == 1 else 1
        out = qkv.new_empty(num_tokens, decoder.num_heads * decoder.head_dim)
        sums = stats = out
        if num_splits > 1:
            sums = qkv.new_empty(num_splits, num_tokens, decoder.num_heads, decoder.head_dim, dtype=torch.float32)
            stats = qkv.new_empty(num_splits, num_tokens, decoder.num_heads, 2, dtype=torch.float32)
        kernels.attend[(num_tiles, decoder.num_kv_heads, num_splits)](
            qkv,
            pool,
            batch.tiles,
            batch.tables,
            out,
            sums,
            stats,
            batch.tables.stride(0),
            self._block_stride,
            self._head_stride,
            self._value_offset,
            decoder.attention_scale,
            decoder.attention_softcap or 0.0,
            layer.window or 0,
            NUM_HEADS=decoder.num_heads,
            NUM_KV_HEADS=decoder.num_kv_heads,
            HEAD_DIM=decoder.head_dim,
            DIM=max(16, dim),
            TOKENS_PER_BLOCK=self._pool.shape.tokens_per_block,
            ROWS=max(_LEAST_ROWS, next_power_of_2(batch.tile_tokens * self._group)),
            KEYS=max(16, min(64, _MAX_VALUES // dim)),
            NUM_SPLITS=num_splits,
            HAS_SOFTCAP=decoder.attention_softcap is not None,
            HAS_WINDOW=layer.window is not None,
            PRECISION="ieee" if qkv.dtype == torch.float32 else "tf32",
            num_warps=4,
        )
        if num_splits > 1:
            self._combine(sums, stats, out, num_splits)
        return out

    def _combine(self, sums: Tensor, stats: Tensor, out: Tensor, num_splits: int) -> None:
        decoder = self._decoder
        num_heads = out.shape[0] * decoder.num_heads
        kernels.combine[(num_heads,)](
            sums,
            stats,
            out,
            num_heads,
            HEAD_DIM=decoder.head_dim,
            DIM=next_power_of_2(decoder.head_dim),
            NUM_SPLITS=num_splits,
            SPLITS=next_power_of_2(num_splits),
            num_warps=1,
        )

    def _num_splits(self, num_tiles: int) -> int:
        """So many parts of each sequence's keys that all processors have something to do, twice over."""
        wanted: int = cdiv(2 * self._num_processors, num_tiles * self._decoder.num_kv_heads)
        return min(_MAX_SPLITS, max(1, wanted))
