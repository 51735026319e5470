"""Random decoders with any of the options a decoder has, and random steps for them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from trtdisagg.engine.models.decoder import Decoder, Experts, Layer, Linear, Mlp, Norm, Rope
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.spec import Dtype

HEADS = [(9, 3, 64), (4, 4, 16), (5, 1, 32), (7, 1, 6), (8, 4, 128), (6, 2, 80), (2, 1, 256), (6, 6, 48)]
"""(query heads, KV heads, head_dim): groups of 1 to 7, sizes that fill vectors and sizes that do not."""
NUM_POSITIONS = 700


class Maker:
    """Draws decoders: the same seed, the same decoder.

    :param dtype: of the linear weights; int8 where their shape allows it.
    """

    def __init__(self, seed: int, dtype: torch.dtype, heads: tuple[int, int, int] | None = None) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.heads = heads or self.rng.choice(HEADS)
        self.width = self.rng.choice([24, 41, 64])

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def linear(self, num_outputs: int, num_inputs: int) -> Linear:
        weight = self.normal(num_outputs, num_inputs) * num_inputs**-0.5
        bias = self.normal(num_outputs) * 0.1 if self.maybe() else None
        if self.dtype != torch.int8:
            return Linear(weight=weight.to(self.dtype), bias=bias)
        group = next((g for g in (32, 8, 4) if num_inputs % g == 0), None)
        if group is None:
            return Linear(weight=weight, bias=bias)
        groups = weight.unflatten(1, (-1, group))
        scales = groups.abs().amax(-1) / 127
        return Linear(weight=(groups / scales[..., None]).round().to(torch.int8).flatten(1), scales=scales, bias=bias)

    def norm(self, width: int, *, has_bias: bool) -> Norm:
        weight = 1 + 0.2 * self.normal(width)
        return Norm(weight=weight, bias=0.1 * self.normal(width) if has_bias else None, eps=1e-5)

    def mlp(self) -> Mlp:
        inner, is_gated = self.rng.choice([17, 40, 96]), self.maybe(0.7)
        return Mlp(
            up=self.linear(inner * (2 if is_gated else 1), self.width),
            down=self.linear(self.width, inner),
            activation=self.rng.choice(["silu", "gelu", "gelu_tanh"]),
            is_gated=is_gated,
        )

    def experts(self) -> Experts:
        members = tuple(self.mlp() for _ in range(self.rng.choice([3, 8])))
        num_active = self.rng.randint(1, len(members))
        return Experts(
            router=self.linear(len(members), self.width),
            experts=members,
            num_active=num_active,
            renormalize=self.maybe(),
        )

    def rope(self) -> Rope:
        angles = torch.rand(NUM_POSITIONS, self.heads[2] // 2, generator=self.generator) * 6.3
        return Rope(cosines=angles.cos(), sines=angles.sin())

    def layer(self, *, is_layer_norm: bool, has_rope: bool) -> Layer:
        num_heads, num_kv_heads, head_dim = self.heads

        def norm(width: int, chance: float) -> Norm | None:
            return self.norm(width, has_bias=is_layer_norm) if self.maybe(chance) else None

        return Layer(
            input_norm=self.norm(self.width, has_bias=is_layer_norm),
            qkv=self.linear((num_heads + 2 * num_kv_heads) * head_dim, self.width),
            q_norm=norm(head_dim, 0.4),
            k_norm=norm(head_dim, 0.4),
            rope=self.rope() if has_rope else None,
            window=self.rng.choice([None, None, 1, 5, 64, 100]),
            o=self.linear(self.width, num_heads * head_dim),
            post_attention_norm=norm(self.width, 0.3),
            mlp_norm=self.norm(self.width, has_bias=is_layer_norm),
            mlp=self.experts() if self.maybe(0.3) else self.mlp(),
            post_mlp_norm=norm(self.width, 0.3),
        )

    def decoder(self, num_layers: int = 2) -> Decoder:
        vocab, is_layer_norm, has_rope = self.rng.choice([50, 64, 131]), self.maybe(0.3), self.maybe(0.8)
        num_heads, num_kv_heads, head_dim = self.heads
        embedding = self.normal(vocab, self.width)
        embedding = embedding if self.dtype == torch.int8 else embedding.to(self.dtype)
        is_tied = self.maybe()
        return Decoder(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            attention_scale=self.rng.choice([head_dim**-0.5, 0.3]),
            attention_softcap=self.rng.choice([None, None, 2.0]),
            vocab_size=vocab,
            embedding=embedding,
            embedding_scale=self.rng.choice([None, 3.5]),
            positions=None if has_rope else self.normal(NUM_POSITIONS, self.width),
            layers=tuple(self.layer(is_layer_norm=is_layer_norm, has_rope=has_rope) for _ in range(num_layers)),
            norm=self.norm(self.width, has_bias=is_layer_norm),
            lm_head=Linear(weight=embedding) if is_tied else self.linear(vocab, self.width),
            logit_softcap=self.rng.choice([None, 4.0]),
        )


def kv_shape(decoder: Decoder, tokens_per_block: int, dtype: Dtype) -> KvShape:
    return KvShape(
        model="m",
        dtype=dtype,
        num_layers=len(decoder.layers),
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        tokens_per_block=tokens_per_block,
    )


class Sequences:
    """Sequences that grow: single tokens, odd pieces, whole prompts; blocks in random order, some of them copied."""

    def __init__(self, rng: random.Random, num_sequences: int, vocab: int, num_blocks: int, per_block: int) -> None:
        self._rng = rng
        self._vocab = vocab
        self._per_block = per_block
        self._free = rng.sample(range(num_blocks), num_blocks)
        self._lengths = [0] * num_sequences
        self._tables: list[list[int]] = [[] for _ in range(num_sequences)]
        self._longest = min(NUM_POSITIONS, (num_blocks // num_sequences - 1) * per_block)

    def steps(self, count: int) -> Iterator[Step]:
        for _ in range(count):
            chosen = self._rng.sample(range(len(self._lengths)), self._rng.randint(1, len(self._lengths)))
            copies = [copy for s in chosen if (copy := self._move(s))]
            chunks = [c for s in chosen if (c := self._grow(s, self._rng.choice([1, 1, 1, 2, 7, 33, 150])))]
            if chunks:
                yield Step(chunks, copies)

    def _grow(self, s: int, count: int) -> Chunk | None:
        start, end = self._lengths[s], self._lengths[s] + count
        if end > self._longest:
            return None
        self._lengths[s] = end
        while len(self._tables[s]) * self._per_block < end:
            self._tables[s].append(self._free.pop())
        tokens = [self._rng.randrange(self._vocab) for _ in range(count)]
        return Chunk(tokens, start, list(self._tables[s]), num_logits=self._rng.choice([0, 1, 1, count]))

    def _move(self, s: int) -> Copy | None:
        """Go on in a copy of the last block."""
        if not self._tables[s] or self._rng.random() < 0.7:
            return None
        source, target = self._tables[s][-1], self._free.pop()
        self._tables[s][-1] = target
        self._free.insert(0, source)
        return Copy(source, target)
