"""Computes steps of any decoder on a CUDA device.

    run --> every chunk one token: a graph, what was captured for that many, replayed
        --> otherwise: each kernel launched by itself

Nothing here waits for the device: the logits that come back may still be computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.cuda.attention import PagedAttention
from trtdisagg.engine.cuda.batch import Batch, to_device
from trtdisagg.engine.cuda.graphs import Graphs
from trtdisagg.engine.cuda.rowwise import activated, add_norm
from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Linear, Mlp
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.engine.torch_decoder import dequantized, mix_experts, softcapped


class CudaDecoder:
    """
    :param pool: open while the decoder is used, on the device of the weights.
    :param max_batch_size: up to so many sequences that generate are computed by a graph; 0: none is captured.
    :param max_seq_len: of a sequence.
    """

    def __init__(
        self, decoder: Decoder, backend: Backend, pool: KvPool, *, max_batch_size: int = 0, max_seq_len: int = 0
    ) -> None:
        self._decoder = decoder
        self._progress = backend.progress
        self._dtype = backend.dtype
        self._pool = pool
        self._attention = PagedAttention(decoder, pool)
        max_blocks = -(-max_seq_len // pool.shape.tokens_per_block)
        has_experts = any(isinstance(layer.mlp, Experts) for layer in decoder.layers)
        # Which experts have rows, and how many, the host has to know: such a step cannot be captured.
        self._graphs = Graphs(self._forward, pool, 0 if has_experts else max_batch_size, max_blocks)

    def prepare(self) -> None:
        """Capture the graphs; compiles the kernels, which takes seconds."""
        with torch.inference_mode():
            self._graphs.capture(self._progress.tick)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab] on the device, in order.
        """
        with torch.inference_mode():
            for copy in step.copies:
                self._pool.tensor[copy.target].copy_(self._pool.tensor[copy.source])
            is_generation = all(len(c.tokens) == c.num_logits == 1 for c in step.chunks)
            if is_generation and (graph := self._graphs.fitting(len(step.chunks))):
                return graph.run(step.chunks)
            per_block = self._pool.shape.tokens_per_block
            tile_tokens = self._attention.tile_tokens(step.chunks)
            return self._forward(to_device(step.chunks, per_block, tile_tokens, self._pool.device))

    def run_ahead(self, chunks: Sequence[Chunk], tokens: Tensor) -> Tensor:
        """See `ahead.AheadRunner`."""
        with torch.inference_mode():
            if graph := self._graphs.fitting(len(chunks)):
                return graph.run(chunks, tokens)
            batch = to_device(chunks, self._pool.shape.tokens_per_block, 1, self._pool.device)
            return self._forward(batch._replace(tokens=tokens.int().clamp_min(0)))

    def wait(self) -> None:
        if self._pool.device.type == "cuda":
            torch.cuda.current_stream(self._pool.device).synchronize()

    def _forward(self, batch: Batch) -> Tensor:
        decoder = self._decoder
        x = embedding(batch.tokens, decoder.embedding).to(self._dtype)
        if decoder.embedding_scale is not None:
            x *= decoder.embedding_scale
        if decoder.positions is not None:
            x += decoder.positions[batch.positions].to(x.dtype)
        delta = None
        for i, layer in enumerate(decoder.layers):
            delta = self._layer(layer, i, x, delta, batch)
            self._progress.tick()
        assert decoder.norm is not None
        assert decoder.lm_head is not None
        normed = add_norm(x, delta, decoder.norm)[batch.wanted]
        return softcapped(_logits(normed, decoder.lm_head), decoder.logit_softcap)

    def _layer(self, layer: Layer, index: int, x: Tensor, delta: Tensor | None, batch: Batch) -> Tensor:
        """
        :param x: [tokens, width], changed in place: all that came before, but for `delta`.
        :return: what this layer gives, to be added by the next.
        """
        qkv = _multiply(add_norm(x, delta, layer.input_norm), layer.qkv)
        delta = _multiply(self._attention.run(layer, index, qkv, batch), layer.o)
        if layer.post_attention_norm is not None:
            delta = add_norm(delta, None, layer.post_attention_norm)
        normed = add_norm(x, delta, layer.mlp_norm)
        delta = _mlp(normed, layer.mlp) if isinstance(layer.mlp, Mlp) else _experts(normed, layer.mlp)
        return delta if layer.post_mlp_norm is None else add_norm(delta, None, layer.post_mlp_norm)


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
