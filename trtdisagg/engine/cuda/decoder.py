"""Computes steps of any decoder on a CUDA device.

    run --> every chunk one token: a graph, what was captured for that many, replayed
        --> otherwise: each kernel launched by itself

Nothing here waits for the device: the logits that come back may still be computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.cuda.attention import PagedAttention
from trtdisagg.engine.cuda.batch import Batch, to_device
from trtdisagg.engine.cuda.graphs import Graphs
from trtdisagg.engine.cuda.rowwise import activated, add_norm
from trtdisagg.engine.division import Division, OwnStep
from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Linear, Mlp
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.engine.torch_decoder import dequantized, embed, mix_experts, softcapped


class CudaDecoder:
    """
    :param pool: open while the decoder is used, on the device of the weights.
    :param max_batch_size: up to so many sequences that generate are computed by a graph; 0: none is captured.
    :param max_seq_len: of a sequence.
    :param ranks: the others of the server; None: there are none.
    """

    def __init__(
        self,
        decoder: Decoder,
        backend: Backend,
        pool: KvPool,
        *,
        max_batch_size: int = 0,
        max_seq_len: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self._decoder = decoder
        self._division = Division(ranks)
        self._progress = backend.progress
        self._dtype = backend.dtype
        self._pool = pool
        self._attention = PagedAttention(decoder, pool)
        max_blocks = -(-max_seq_len // pool.shape.tokens_per_block)
        has_experts = any(isinstance(layer.mlp, Experts) for layer in decoder.layers)
        # Which experts have rows, and how many, the host has to know: such a step cannot be captured.
        max_captured = 0 if has_experts else max_batch_size
        self._graphs = Graphs(self._forward, pool, max_captured, max_blocks, self._room_for_hidden)

    def prepare(self) -> None:
        """Capture the graphs; compiles the kernels, which takes seconds."""
        with torch.inference_mode():
            self._graphs.capture(self._progress.tick)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab] on the device, in order; no rows on other ranks than 0.
        """
        division = self._division
        with torch.inference_mode():
            own = division.own(step)
            for copy in own.copies:
                self._pool.tensor[copy.target].copy_(self._pool.tensor[copy.source])
            hidden = self._room_for_hidden(sum(len(c.tokens) for c in own.chunks))
            if hidden is not None:
                division.take_over(hidden)
            return division.finish(self._compute(own, hidden), step, self._decoder.vocab_size)

    def _compute(self, own: OwnStep, hidden: Tensor | None) -> Tensor:
        if not own.chunks:
            return self._help(own)
        is_generation = all(len(c.tokens) == c.num_logits == 1 for c in own.chunks)
        if is_generation and (graph := self._graphs.fitting(len(own.chunks))):
            return graph.run(own.chunks, hidden=hidden)
        tile_tokens = self._attention.tile_tokens(own.chunks)
        batch = to_device(own.chunks, self._pool.shape.tokens_per_block, tile_tokens, self._pool.device)
        return self._forward(batch._replace(num_rows=own.num_tokens), hidden)

    def _help(self, own: OwnStep) -> Tensor:
        """A rank without rows still computes its experts for those of others."""
        decoder, device = self._decoder, self._pool.device
        none = torch.empty(0, decoder.width, dtype=self._dtype, device=device)
        for layer in decoder.layers:
            if isinstance(layer.mlp, Experts):
                self._mlp(none, layer.mlp, own.num_tokens)
        return none if decoder.lm_head is None else torch.empty(0, len(decoder.lm_head.weight), device=device)

    def run_ahead(self, chunks: Sequence[Chunk], tokens: Tensor) -> Tensor:
        """See `ahead.AheadRunner`; for a server of one rank."""
        with torch.inference_mode():
            if graph := self._graphs.fitting(len(chunks)):
                return graph.run(chunks, tokens=tokens)
            batch = to_device(chunks, self._pool.shape.tokens_per_block, 1, self._pool.device)
            return self._forward(batch._replace(tokens=tokens.int().clamp_min(0)))

    def wait(self) -> None:
        if self._pool.device.type == "cuda":
            torch.cuda.current_stream(self._pool.device).synchronize()

    def _room_for_hidden(self, num_tokens: int) -> Tensor | None:
        if self._division.is_first:
            return None
        return torch.zeros(num_tokens, self._decoder.width, dtype=self._dtype, device=self._pool.device)

    def _forward(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """
        :return: logits, [wanted rows, own part of the vocabulary]; but for the last stage hidden states.
        """
        decoder = self._decoder
        x = self._embed(batch) if hidden is None else hidden.clone()
        delta = None
        for i, layer in enumerate(decoder.layers):
            delta = self._layer(layer, i, x, delta, batch)
            self._progress.tick()
        if decoder.lm_head is None or decoder.norm is None:
            return x if delta is None else x + delta
        normed = add_norm(x, delta, decoder.norm)[batch.wanted]
        return softcapped(_logits(normed, decoder.lm_head), decoder.logit_softcap)

    def _embed(self, batch: Batch) -> Tensor:
        decoder = self._decoder
        x = self._division.add_up(embed(batch.tokens, decoder).to(self._dtype))
        if decoder.embedding_scale is not None:
            x *= decoder.embedding_scale
        if decoder.positions is not None:
            x += decoder.positions[batch.positions].to(x.dtype)
        return x

    def _layer(self, layer: Layer, index: int, x: Tensor, delta: Tensor | None, batch: Batch) -> Tensor:
        """
        :param x: [tokens, width], changed in place: all that came before, but for `delta`.
        :return: what this layer gives, to be added by the next.
        """
        qkv = _multiply(add_norm(x, delta, layer.input_norm), layer.qkv)
        delta = self._division.add_up(_multiply(self._attention.run(layer, index, qkv, batch), layer.o))
        if layer.post_attention_norm is not None:
            delta = add_norm(delta, None, layer.post_attention_norm)
        delta = self._mlp(add_norm(x, delta, layer.mlp_norm), layer.mlp, batch.num_rows)
        return delta if layer.post_mlp_norm is None else add_norm(delta, None, layer.post_mlp_norm)

    def _mlp(self, x: Tensor, mlp: Mlp | Experts, num_rows: Sequence[int]) -> Tensor:
        if isinstance(mlp, Mlp):
            return self._division.add_up(_mlp(x, mlp))
        return self._division.mix(x, num_rows, lambda rows: _experts(rows, mlp))


def _multiply(x: Tensor, product: Linear) -> Tensor:
    bias = None if product.bias is None else product.bias.to(x.dtype)
    return linear(x, dequantized(product).to(x.dtype), bias)


def _mlp(x: Tensor, mlp: Mlp) -> Tensor:
    return _multiply(activated(_multiply(x, mlp.up), mlp), mlp.down)


def _experts(x: Tensor, experts: Experts) -> Tensor:
    return mix_experts(x, _multiply(x, experts.router), experts, _mlp)


def _logits(x: Tensor, head: Linear) -> Tensor:
    """In float32: rounded to bfloat16, two that differ by 0.1 would be equal."""
    weight = dequantized(head)
    if x.is_cuda and weight.dtype == x.dtype == torch.bfloat16:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return x.float() @ weight.float().t()
