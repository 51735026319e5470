"""Computes steps of a Llama-like decoder from csrc pieces, one call a part: fast on a CPU, but not for every decoder.

x -> norm -> qkv -> attention -> o -> + x -> norm -> gate_up -> silu(gate) up -> down -> +        in each layer
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import embedding

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.attention import Attention, make_attention
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.linear import Linear, Multiplier
from trtdisagg.engine.models import decoder as values
from trtdisagg.engine.rowwise import make_rowwise
from trtdisagg.engine.step import Step


def can_be_layered(decoder: values.Decoder) -> bool:
    """Whether the pieces can express all of it."""
    first = decoder.layers[0]
    return (
        decoder.attention_scale == decoder.head_dim**-0.5
        and decoder.embedding_scale is decoder.positions is None
        and decoder.attention_softcap is decoder.logit_softcap is None
        and all(_is_plain(layer) and layer.rope is first.rope is not None for layer in decoder.layers)
    )


def _is_plain(layer: values.Layer) -> bool:
    mlp = layer.mlp
    more = (layer.q_norm, layer.k_norm, layer.window, layer.post_attention_norm, layer.post_mlp_norm)
    return (
        all(part is None for part in (*more, layer.input_norm.bias))
        and isinstance(mlp, values.Mlp)
        and (mlp.is_gated, mlp.activation) == (True, "silu")
        and all(part.scales is None for part in (layer.qkv, layer.o, mlp.up, mlp.down))
    )


class LayeredDecoder:
    """
    :param decoder: one that `can_be_layered`.
    :param pool: open while the decoder is used, and on its device.
    """

    def __init__(self, decoder: values.Decoder, backend: Backend, pool: KvPool) -> None:
        rope = decoder.layers[0].rope
        assert rope is not None
        multiplier = Multiplier(backend)
        self._pool = pool
        self._rowwise = make_rowwise(backend)
        self._attention: Attention = make_attention(backend, pool, rope, num_heads=decoder.num_heads)
        self._embedding = decoder.embedding
        self._layers = [_Layer(layer, backend, multiplier) for layer in decoder.layers]
        self._norm = _norm(decoder.norm, backend)
        self._eps = decoder.norm.eps
        self._lm_head = Linear(decoder.lm_head.weight, None, multiplier, out_type=torch.float32)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab], in order.
        """
        device = self._pool.device
        ends = accumulate(len(chunk.tokens) for chunk in step.chunks)
        wanted = [r for end, c in zip(ends, step.chunks, strict=True) for r in range(end - c.num_logits, end)]
        with torch.inference_mode():
            for source, target in step.copies:
                self._pool.tensor[target] = self._pool.tensor[source]
            tokens = torch.tensor([t for chunk in step.chunks for t in chunk.tokens], device=device)
            self._attention.begin(step.chunks)
            x, delta = embedding(tokens, self._embedding), None
            for i in range(len(self._layers)):
                delta = self._layer(i, x, delta)
            x = self._rowwise.norm(x, self._norm, self._eps, delta)
            return self._lm_head(x[torch.tensor(wanted, dtype=torch.long, device=device)])

    def _layer(self, index: int, x: Tensor, delta: Tensor | None) -> Tensor:
        """Compute one layer.

        :param x: [tokens, width], changed in place: all that came before, but for `delta`.
        :param delta: what the layer before gave, still to be added; None in the first.
        :return: what this layer gives, to be added by the next.
        """
        layer = self._layers[index]
        normed = self._rowwise.norm(x, layer.input_norm, layer.eps, delta)
        delta = layer.o(self._attention.run(index, layer.qkv(normed)))
        normed = self._rowwise.norm(x, layer.mlp_norm, layer.eps, delta)
        return layer.down(self._rowwise.gate(layer.up(normed)))


class _Layer:
    def __init__(self, layer: values.Layer, backend: Backend, multiplier: Multiplier) -> None:
        assert isinstance(layer.mlp, values.Mlp)
        linears = (layer.qkv, layer.o, layer.mlp.up, layer.mlp.down)
        self.qkv, self.o, self.up, self.down = (Linear(part.weight, part.bias, multiplier) for part in linears)
        self.input_norm, self.mlp_norm = _norm(layer.input_norm, backend), _norm(layer.mlp_norm, backend)
        self.eps = layer.input_norm.eps


def _norm(norm: values.Norm, backend: Backend) -> Tensor:
    assert norm.bias is None
    return norm.weight.to(backend.dtype)
