"""Computes steps of any decoder in C++, one call a step: weights and pool are bound once, a step passes indices only.

Activations are float32 whatever the weights are. The weights are rearranged in place when they are bound, so a decoder
value that was given away here is not to be computed by anyone else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.division import Division, OwnStep
from trtdisagg.engine.gang.shared_ranks import SharedRanks
from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Linear, Mlp, Norm
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Chunk, Step


class NativeDecoder:
    """
    :param decoder: its linear weights change.
    :param backend: with the extension.
    :param pool: open while the decoder is used.
    :param isa: one of `isas()` of the extension; empty: the best.
    :param ranks: the others of the server; None: there are none.
    """

    def __init__(
        self, decoder: Decoder, backend: Backend, pool: KvPool, isa: str = "", ranks: Ranks | None = None
    ) -> None:
        self._decoder = decoder  # keeps the tensors that C++ points into
        self._pool = pool
        self._width_out = decoder.width if decoder.lm_head is None else decoder.lm_head.weight.shape[0]
        self._division = Division(ranks)
        self._rows = _Rows(ranks)
        self._native = _Binder(backend, isa).decoder(decoder, pool, ranks, self._rows)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab], in order; no rows on other ranks than 0.
        """
        division = self._division
        self._rows.own = own = division.own(step)
        tokens, table, blocks = indices(own.chunks)
        copies = np.array([(c.source, c.target) for c in own.copies], np.int64).reshape(-1, 2)
        x = None if division.is_first else division.take_over(torch.empty(len(tokens), self._decoder.width))
        out = torch.empty(sum(c.num_logits for c in own.chunks) if division.is_last else len(tokens), self._width_out)
        self._native.run(
            tokens,
            table,
            blocks,
            copies,
            in_address=0 if x is None else x.data_ptr(),
            out_address=out.data_ptr(),
            num_out=len(out),
            all_rows=division.place(own.num_tokens),
            wanted_rows=division.place(own.num_logits),
        )
        return division.finish(out, step, self._decoder.vocab_size)


def indices(chunks: Sequence[Chunk]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :return: int32 tokens, int64 [chunks, 4] of (number of tokens, start, first index in blocks, number of logits),
        int32 blocks.
    """
    tables = accumulate((len(c.blocks) for c in chunks), initial=0)
    rows = [(len(c.tokens), c.start, table, c.num_logits) for c, table in zip(chunks, tables, strict=False)]
    tokens = list(chain.from_iterable(c.tokens for c in chunks))
    blocks = list(chain.from_iterable(c.blocks for c in chunks))
    return np.array(tokens, np.int32), np.array(rows, np.int64).reshape(-1, 4), np.array(blocks, np.int32)


class _Rows:
    """Puts the rows of all ranks together, for C++ in the middle of a step."""

    own: OwnStep

    def __init__(self, ranks: Ranks | None) -> None:
        self._ranks = ranks

    def gather(self, own: Tensor, everything: Tensor, wanted_only: bool) -> None:
        assert self._ranks is not None
        num_rows = self.own.num_logits if wanted_only else self.own.num_tokens
        everything.copy_(self._ranks.gather(own, num_rows))


def _add_up(ranks: Ranks) -> Any:
    """What C++ asks in the middle of a step: without Python in between, where it can."""
    return ranks.native if isinstance(ranks, SharedRanks) else ranks.add_up


class _Binder:
    """Makes the extension's values of a decoder's."""

    def __init__(self, backend: Backend, isa: str) -> None:
        assert backend.csrc is not None
        self._csrc = backend.csrc
        self._workers = backend.workers
        self._isa = isa

    def decoder(self, d: Decoder, pool: KvPool, ranks: Ranks | None, rows: _Rows) -> Any:
        is_tied = d.embedding is not None and d.lm_head is not None and _is_same(d.embedding, d.lm_head.weight)
        return self._csrc.Decoder(
            pool.address,
            num_blocks=pool.num_blocks,
            num_heads=d.num_heads,
            num_kv_heads=d.num_kv_heads,
            head_dim=d.head_dim,
            tokens_per_block=pool.shape.tokens_per_block,
            pool_is_bf16=pool.dtype == torch.bfloat16,
            attention_scale=d.attention_scale,
            attention_softcap=d.attention_softcap,
            vocab_size=d.vocab_size,
            first_token=d.first_token,
            has_embedding=d.embedding is not None,
            embedding=None if is_tied else d.embedding,
            embedding_scale=d.embedding_scale,
            positions=d.positions,
            max_positions=max_positions(d),
            layers=[self._layer(layer) for layer in d.layers],
            norm=self._norm(d.norm),
            lm_head=d.lm_head and self._matrix(d.lm_head),
            logit_softcap=d.logit_softcap,
            add_up=_add_up(ranks) if ranks and ranks.parallel.tp_size > 1 else None,
            gather=rows.gather if ranks and ranks.parallel.dp_size > 1 else None,
            workers=self._workers,
            isa=self._isa,
        )

    def _layer(self, layer: Layer) -> Any:
        mlp = layer.mlp
        return self._csrc.Layer(
            input_norm=self._norm(layer.input_norm),
            qkv=self._matrix(layer.qkv),
            q_norm=self._norm(layer.q_norm),
            k_norm=self._norm(layer.k_norm),
            rope=(layer.rope.cosines, layer.rope.sines) if layer.rope else None,
            window=layer.window,
            o=self._matrix(layer.o),
            post_attention_norm=self._norm(layer.post_attention_norm),
            mlp_norm=self._norm(layer.mlp_norm),
            mlp=self._mlp(mlp) if isinstance(mlp, Mlp) else self._experts(mlp),
            post_mlp_norm=self._norm(layer.post_mlp_norm),
        )

    def _experts(self, experts: Experts) -> Any:
        members = [self._mlp(mlp) for mlp in experts.experts]
        router = self._matrix(experts.router)
        return self._csrc.Experts(router, members, experts.first, experts.num_active, experts.renormalize)

    def _mlp(self, mlp: Mlp) -> Any:
        return self._csrc.Mlp(self._matrix(mlp.up), self._matrix(mlp.down), mlp.activation, mlp.is_gated)

    def _norm(self, norm: Norm | None) -> Any:
        return norm and self._csrc.Norm(norm.weight, norm.bias, norm.eps)

    def _matrix(self, linear: Linear) -> Any:
        return self._csrc.Matrix(linear.weight, linear.scales, linear.bias, self._workers, self._isa)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return bool(a.data_ptr() == b.data_ptr())


def max_positions(decoder: Decoder) -> int:
    """As far as the tables of all layers reach."""
    tables = [layer.rope.cosines for layer in decoder.layers if layer.rope]
    tables += [] if decoder.positions is None else [decoder.positions]
    return min((len(table) for table in tables), default=2**31 - 1)
