"""Decoders of random weights, with any of the options that families have, and steps to compute with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.models.decoder import Activation, Decoder, Experts, Layer, Linear, Mlp, Norm, Rope
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.protocol.handover import KvShape

VOCAB_SIZE = 97
NUM_POSITIONS = 256


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one random decoder is like."""

    num_layers: int = 2
    width: int = 48
    inner: int = 80
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 16
    dtype: torch.dtype = torch.float32
    layer_norm: bool = False
    biases: bool = False
    head_norms: bool = False
    rope: bool = True
    windows: tuple[int | None, ...] = (None,)
    """Of the layers, in turn."""
    attention_softcap: float | None = None
    post_norms: bool = False
    activation: Activation = "silu"
    is_gated: bool = True
    num_experts: int = 0
    renormalize: bool = True
    embedding_scale: float | None = None
    positions: bool = False
    logit_softcap: float | None = None


EVERY_OPTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 32},
    "many heads to one": {"num_heads": 7, "num_kv_heads": 1},
    "uneven head size": {"head_dim": 24},
    "layer norm": {"layer_norm": True, "biases": True, "rope": False, "positions": True, "is_gated": False},
    "biases": {"biases": True},
    "head norms": {"head_norms": True},
    "windows": {"windows": (5, None)},
    "softcaps": {"attention_softcap": 3.0, "logit_softcap": 4.0, "windows": (7,), "post_norms": True},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh", "embedding_scale": 6.9},
    "experts": {"num_experts": 5},
    "experts as they are": {"num_experts": 3, "renormalize": False},
}
"""Name -> what differs from the default."""


def random_decoder(options: Options, seed: int = 0, device: str = "cpu") -> Decoder:
    return _Maker(options, seed, torch.device(device)).decoder()


def pool_for(options: Options, num_blocks: int, tokens_per_block: int = 8, device: str = "cpu") -> KvPool:
    shape = KvShape(
        model="random",
        dtype="bfloat16" if options.dtype == torch.bfloat16 else "float32",
        num_layers=options.num_layers,
        num_kv_heads=options.num_kv_heads,
        head_dim=options.head_dim,
        tokens_per_block=tokens_per_block,
    )
    return KvPool(shape, num_blocks, device)


class _Maker:
    def __init__(self, options: Options, seed: int, device: torch.device) -> None:
        self.o = options
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def decoder(self) -> Decoder:
        o = self.o
        return Decoder(
            num_heads=o.num_heads,
            num_kv_heads=o.num_kv_heads,
            head_dim=o.head_dim,
            attention_scale=o.head_dim**-0.5,
            attention_softcap=o.attention_softcap,
            vocab_size=VOCAB_SIZE,
            embedding=self.random(VOCAB_SIZE, o.width).to(o.dtype),
            embedding_scale=o.embedding_scale,
            positions=self.random(NUM_POSITIONS, o.width) if o.positions else None,
            layers=tuple(self.layer(i) for i in range(o.num_layers)),
            norm=self.norm(o.width),
            lm_head=Linear(weight=self.random(VOCAB_SIZE, o.width).to(o.dtype)),
            logit_softcap=o.logit_softcap,
        )

    def layer(self, index: int) -> Layer:
        o = self.o
        heads = o.num_heads * o.head_dim
        return Layer(
            input_norm=self.norm(o.width),
            qkv=self.linear(heads + 2 * o.num_kv_heads * o.head_dim, o.width),
            q_norm=self.head_norm(),
            k_norm=self.head_norm(),
            rope=self.rope(index) if o.rope else None,
            window=o.windows[index % len(o.windows)],
            o=self.linear(o.width, heads),
            post_attention_norm=self.norm(o.width) if o.post_norms else None,
            mlp_norm=self.norm(o.width),
            mlp=self.experts() if o.num_experts else self.mlp(),
            post_mlp_norm=self.norm(o.width) if o.post_norms else None,
        )

    def mlp(self) -> Mlp:
        o = self.o
        return Mlp(
            up=self.linear(2 * o.inner if o.is_gated else o.inner, o.width),
            down=self.linear(o.width, o.inner),
            activation=o.activation,
            is_gated=o.is_gated,
        )

    def experts(self) -> Experts:
        return Experts(
            router=Linear(weight=self.random(self.o.num_experts, self.o.width).to(self.o.dtype)),
            experts=tuple(self.mlp() for _ in range(self.o.num_experts)),
            num_active=2,
            renormalize=self.o.renormalize,
        )

    def norm(self, width: int) -> Norm:
        bias = 0.1 * self.random(width) if self.o.layer_norm else None
        return Norm(weight=1 + 0.1 * self.random(width), bias=bias, eps=1e-5)

    def head_norm(self) -> Norm | None:
        return Norm(weight=1 + 0.1 * self.random(self.o.head_dim), eps=1e-6) if self.o.head_norms else None

    def linear(self, num_outputs: int, num_inputs: int) -> Linear:
        weight = (self.random(num_outputs, num_inputs) * num_inputs**-0.5).to(self.o.dtype)
        return Linear(weight=weight, bias=self.random(num_outputs) * 0.1 if self.o.biases else None)

    def rope(self, index: int) -> Rope:
        half = self.o.head_dim // 2
        frequencies = (10.0 * (index + 1)) ** -(torch.arange(half) / half)
        angles = torch.outer(torch.arange(NUM_POSITIONS).float(), frequencies)
        return Rope(cosines=angles.cos().to(self.device), sines=angles.sin().to(self.device))

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device)


# --- steps ------------------------------------------------------------------------------------------------------------


class Sequences:
    """Sequences of random tokens in a pool, from which steps take what comes next."""

    def __init__(self, lengths: Sequence[int], tokens_per_block: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = [torch.randint(VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]
        self.num_done = [0] * len(lengths)
        sizes = [-(-n // tokens_per_block) for n in lengths]
        shuffled = torch.randperm(sum(sizes), generator=generator).split(sizes)
        self.blocks = [blocks.tolist() for blocks in shuffled]
        self.num_blocks = sum(sizes)

    def step(self, counts: dict[int, int], *, num_logits: int | None = 1) -> Step:
        """
        :param counts: sequence -> how many tokens to compute.
        :param num_logits: of each; None: all.
        """
        return Step([self._chunk(s, count, count if num_logits is None else num_logits) for s, count in counts.items()])

    def _chunk(self, sequence: int, count: int, num_logits: int) -> Chunk:
        start = self.num_done[sequence]
        self.num_done[sequence] = end = start + count
        assert end <= len(self.tokens[sequence])
        return Chunk(self.tokens[sequence][start:end], start, self.blocks[sequence], num_logits)
