"""A decoder as a value: the weights that a rank has, and which of the few ways to compute each part has.

A model family is a file that reads weights into this; what computes it (`torch_decoder`, `native_decoder`, `cuda`)
knows no families.

    x = embedding[tokens] * embedding_scale  (+ positions[where])
    each layer:  a = o(attention(rotate(norm(split(qkv(input_norm(x)))))))      x += post_attention_norm(a)
                 m = mlp(mlp_norm(x))                                           x += post_mlp_norm(m)
    logits = softcap(lm_head(norm(x)))

Linear weights and the embedding have the compute type, everything small (norms, biases, positions) is float32.

Where ranks divide heads and MLPs, what `o` and `mlp` give is a part of a sum over them, and so is an embedded token: a
rank that lacks its row gives zeros. Where they divide layers, the first stage has the embedding, the last the two
matrices at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Activation = Literal["silu", "gelu", "gelu_tanh"]
"""`gelu`: with the error function; `gelu_tanh`: its approximation (Hendrycks and Gimpel, 2016)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """x / root mean square * weight, or, with a bias, (x - mean) / standard deviation * weight + bias."""

    weight: Tensor
    """float32 [width]; where a family means 1 + w, that is what stands here."""
    bias: Tensor | None = None
    """float32 [width]; there: layer normalization."""
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """x -> x weight^T + bias"""

    weight: Tensor
    """[outputs, inputs], of the compute type, or int8 with `scales`."""
    scales: Tensor | None = None
    """float32 [outputs, inputs / group]: a weight's value is its number times the scale of its group."""
    bias: Tensor | None = None
    """float32 [outputs]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    up: Linear
    """Gated: gate and up, one behind the other, [2 inner, width]; otherwise [inner, width]."""
    down: Linear
    activation: Activation = "silu"
    is_gated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The softmax over the router's logits chooses `num_active` experts for a token; their results are added, each
    times its weight there."""

    router: Linear
    experts: tuple[Mlp, ...]
    """Those that this rank has, one behind the other."""
    first: int = 0
    """Which of the router's results the first of them has."""
    num_active: int
    renormalize: bool
    """The weights of the chosen ones sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Angles of all positions: pair (i, i + head_dim / 2) of a head turns by them."""

    cosines: Tensor
    """float32 [positions, head_dim / 2]"""
    sines: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    input_norm: Norm
    qkv: Linear
    """[(num_heads + 2 num_kv_heads) head_dim, width]: queries, keys, values."""
    q_norm: Norm | None = None
    """Of each head by itself, before rotation."""
    k_norm: Norm | None = None
    rope: Rope | None = None
    """None: positions are known from the embedding."""
    window: int | None = None
    """A token sees so many, itself included; None: all before it."""
    o: Linear
    post_attention_norm: Norm | None = None
    mlp_norm: Norm
    mlp: Mlp | Experts
    post_mlp_norm: Norm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    num_heads: int
    """That the rank has, as are the KV heads."""
    num_kv_heads: int
    head_dim: int
    attention_scale: float
    attention_softcap: float | None = None
    """Scores become c tanh(score / c)."""
    vocab_size: int
    """Of the model."""
    first_token: int = 0
    """Which the first row of embedding and lm_head is for."""
    embedding: Tensor | None
    """[rows, width]; None: another stage has it."""
    embedding_scale: float | None = None
    positions: Tensor | None = None
    """float32 [positions, width], learned."""
    layers: tuple[Layer, ...]
    norm: Norm | None
    """None, as is lm_head: another stage has them."""
    lm_head: Linear | None
    """Its results are float32: bfloat16 tells no two logits apart that differ by 0.1."""
    logit_softcap: float | None = None

    @property
    def width(self) -> int:
        return len(self.layers[0].input_norm.weight)
