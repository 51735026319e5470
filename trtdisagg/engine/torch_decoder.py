"""Computes steps of any decoder with plain torch, on any device: what the fast paths are tested against.

Short before fast: the blocks of each chunk are gathered, quantized weights are widened where they are used. On a CPU
activations are float32 whatever the weights are, as in csrc; on a device they have the type of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, rms_norm, silu

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.division import Division, OwnStep
from trtdisagg.engine.models.decoder import Activation, Decoder, Experts, Layer, Linear, Mlp, Norm
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.rotary import rotate
from trtdisagg.engine.step import Chunk, Step


class TorchDecoder:
    """
    :param pool: open while the decoder is used, and on its device.
    :param ranks: the others of the server; None: there are none.
    """

    def __init__(self, decoder: Decoder, backend: Backend, pool: KvPool, ranks: Ranks | None = None) -> None:
        self._decoder = decoder
        self._division = Division(ranks)
        self._progress = backend.progress
        self._dtype = torch.float32 if backend.device.type == "cpu" else backend.dtype
        self._pool = pool

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab], in order; no rows on other ranks than 0.
        """
        division = self._division
        with torch.inference_mode():
            own = division.own(step)
            for copy in own.copies:
                self._pool.tensor[copy.target] = self._pool.tensor[copy.source]
            where = _Where(own, self._pool)
            x = self._begin(where)
            for i, layer in enumerate(self._decoder.layers):
                x = self._layer(layer, self._pool.tensor[:, i], x, where)
                self._progress.tick()
            out = self._logits(x[where.wanted]) if division.is_last else x
            return division.finish(out, step, self._decoder.vocab_size)

    def _begin(self, where: _Where) -> Tensor:
        """What the first of this stage's layers is given."""
        decoder, tokens = self._decoder, where.tokens
        if decoder.embedding is None:
            x = torch.empty(len(tokens), decoder.width, dtype=self._dtype, device=tokens.device)
            return self._division.take_over(x)
        x = self._division.add_up(embed(tokens, decoder).to(self._dtype))
        if decoder.embedding_scale is not None:
            x = x * decoder.embedding_scale
        if decoder.positions is not None:
            x = x + decoder.positions[where.positions].to(x.dtype)
        return x

    def _layer(self, layer: Layer, blocks: Tensor, x: Tensor, where: _Where) -> Tensor:
        attended = self._attention(layer, blocks, apply_norm(x, layer.input_norm), where)
        delta = self._division.add_up(multiply(attended, layer.o))
        if layer.post_attention_norm is not None:
            delta = apply_norm(delta, layer.post_attention_norm)
        x = x + delta
        self._progress.tick()
        normed = apply_norm(x, layer.mlp_norm)
        delta = self._mlp(normed, layer.mlp, where)
        if layer.post_mlp_norm is not None:
            delta = apply_norm(delta, layer.post_mlp_norm)
        return x + delta

    def _mlp(self, x: Tensor, mlp: Mlp | Experts, where: _Where) -> Tensor:
        if isinstance(mlp, Mlp):
            return self._division.add_up(apply_mlp(x, mlp))
        return self._division.mix(x, where.num_rows, lambda rows: apply_experts(rows, mlp))

    def _attention(self, layer: Layer, blocks: Tensor, x: Tensor, where: _Where) -> Tensor:
        """
        :param blocks: [num_blocks, kv_heads, 2, tokens_per_block, head_dim], one layer of the pool.
        :return: [tokens, heads head_dim]
        """
        num_heads, num_kv_heads = self._decoder.num_heads, self._decoder.num_kv_heads
        heads = multiply(x, layer.qkv).unflatten(1, (-1, self._decoder.head_dim))
        queries, keys, values = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
        queries = queries if layer.q_norm is None else apply_norm(queries, layer.q_norm)
        keys = keys if layer.k_norm is None else apply_norm(keys, layer.k_norm)
        if (rope := layer.rope) is not None:
            cosines, sines = rope.cosines[where.positions], rope.sines[where.positions]
            queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        blocks[where.blocks, :, 0, where.slots] = keys.to(blocks.dtype)
        blocks[where.blocks, :, 1, where.slots] = values.to(blocks.dtype)
        pieces = queries.split([len(chunk.tokens) for chunk in where.chunks])
        outs = [self._attend(layer, blocks, c, piece) for c, piece in zip(where.chunks, pieces, strict=True)]
        return torch.cat(outs) if outs else queries.flatten(1)

    def _attend(self, layer: Layer, blocks: Tensor, chunk: Chunk, queries: Tensor) -> Tensor:
        """
        :param queries: [tokens, heads, head_dim]
        """
        decoder = self._decoder
        end = chunk.start + len(chunk.tokens)
        table = torch.tensor(chunk.blocks, device=blocks.device)
        keys, values = blocks[table].permute(2, 1, 0, 3, 4).flatten(2, 3)[:, :, :end].float()
        grouped = queries.float().view(queries.shape[0], decoder.num_kv_heads, -1, decoder.head_dim)
        scores = torch.einsum("tgrd,gsd->grts", grouped, keys) * decoder.attention_scale
        scores = softcapped(scores, decoder.attention_softcap)
        here = torch.arange(end, device=blocks.device)
        distance = here[chunk.start :, None] - here
        visible = (distance >= 0) & (distance < (layer.window or end))
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return torch.einsum("grts,gsd->tgrd", weights, values).flatten(1).to(queries.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        decoder = self._decoder
        assert decoder.norm is not None
        assert decoder.lm_head is not None
        return softcapped(multiply(apply_norm(x, decoder.norm).float(), decoder.lm_head), decoder.logit_softcap)


class _Where:
    """A rank's tokens of a step, where they stand and where their KV lies, all chunks behind each other."""

    def __init__(self, own: OwnStep, pool: KvPool) -> None:
        per_block, chunks = pool.shape.tokens_per_block, own.chunks

        def indices(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=pool.device)

        positions = [range(c.start, c.start + len(c.tokens)) for c in chunks]
        ends = accumulate(len(c.tokens) for c in chunks)
        self.chunks = chunks
        self.num_rows = own.num_tokens
        self.tokens = indices([t for chunk in chunks for t in chunk.tokens])
        self.positions = indices([p for ps in positions for p in ps])
        self.slots = self.positions % per_block
        blocks = [c.blocks[p // per_block] for c, ps in zip(chunks, positions, strict=True) for p in ps]
        self.blocks = indices(blocks)
        wanted = [r for end, c in zip(ends, chunks, strict=True) for r in range(end - c.num_logits, end)]
        self.wanted = indices(wanted)


# --- the parts of a decoder, one function each ------------------------------------------------------------------------


def embed(tokens: Tensor, decoder: Decoder) -> Tensor:
    """
    :return: [len(tokens), width]; zeros where another rank has the row.
    """
    rows = decoder.embedding
    assert rows is not None
    if len(rows) == decoder.vocab_size:
        return embedding(tokens, rows)
    own = tokens - decoder.first_token
    is_own = (own >= 0) & (own < len(rows))
    return embedding(own.clamp(0, len(rows) - 1), rows) * is_own[:, None]


def multiply(x: Tensor, linear: Linear) -> Tensor:
    """x weight^T + bias, in the type of x."""
    weight = dequantized(linear).to(x.dtype)
    out = x @ weight.t()
    return out if linear.bias is None else out + linear.bias.to(x.dtype)


def dequantized(linear: Linear) -> Tensor:
    """The weight as numbers: float32 where it is quantized, else as it is."""
    if linear.scales is None:
        return linear.weight
    groups = linear.weight.float().unflatten(1, (linear.scales.shape[1], -1))
    return (groups * linear.scales[:, :, None]).flatten(1)


def apply_norm(x: Tensor, norm: Norm) -> Tensor:
    """Over the last axis, computed in float32."""
    width = norm.weight.shape
    if norm.bias is None:
        return rms_norm(x.float(), width, norm.weight, norm.eps).to(x.dtype)
    return layer_norm(x.float(), width, norm.weight, norm.bias, norm.eps).to(x.dtype)


def apply_mlp(x: Tensor, mlp: Mlp) -> Tensor:
    inner = multiply(x, mlp.up)
    if mlp.is_gated:
        gate, up = inner.chunk(2, dim=-1)
        return multiply(_activated(gate, mlp.activation) * up, mlp.down)
    return multiply(_activated(inner, mlp.activation), mlp.down)


def apply_experts(x: Tensor, experts: Experts) -> Tensor:
    return mix_experts(x, multiply(x, experts.router), experts, apply_mlp)


def mix_experts(x: Tensor, scores: Tensor, experts: Experts, compute: Callable[[Tensor, Mlp], Tensor]) -> Tensor:
    """What those of the chosen experts that are here give for each row, weighted.

    :param scores: [rows, experts], what the router says.
    :param compute: one expert, for some of the rows.
    """
    weights, chosen = scores.float().softmax(-1).topk(experts.num_active)
    if experts.renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(x)
    for i, expert in enumerate(experts.experts, experts.first):
        rows, rank = (chosen == i).nonzero(as_tuple=True)
        if len(rows):
            out.index_add_(0, rows, compute(x[rows], expert) * weights[rows, rank, None].to(x.dtype))
    return out


def softcapped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * (x / cap).tanh()


def _activated(x: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return silu(x)
    return gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")
